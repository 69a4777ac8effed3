"""A small file tree of every corpus as its documentation describes it, with the utterances expected from it.

Written from the documentation of the corpora, not from the manifests, which are tested against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Expected:
    """An expected utterance; attack and artifact are None for bona fide speech."""

    path: str
    id: str
    label: str
    artifact: str | None = None
    attack: str | None = None
    speaker: str | None = None
    split: str | None = None
    language: str | None = None
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True)
class Layout:
    """A small corpus with one superfluous file and, if it has a protocol, one missing file."""

    name: str
    folder: str
    utterances: tuple[Expected, ...]
    stray: str
    """An audio file that does not belong to the corpus."""
    tables: Mapping[str, str] = field(default_factory=dict)
    """Text of the protocols by path; one of them lists a file that does not exist."""
    missing: str | None = None
    """That file as it is reported, with `*` for parts of the path that the row does not contain."""
    ignored: tuple[str, ...] = ()
    """Audio of the same package that does not belong to the corpus and is not reported."""
    stray_reason: str = "stray"

    def write(self, root: Path) -> Path:
        """Write the tree; audio files are empty."""
        for path in [*(each.path for each in self.utterances), self.stray, *self.ignored]:
            put(root / path)
        for path, text in self.tables.items():
            put(root / path, text)
        return root


def put(path: Path, text: str = "") -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")


def bonafide(
    path: str,
    id_: str,
    speaker: str | None = None,
    split: str | None = None,
    language: str | None = None,
    start: int | None = None,
    end: int | None = None,
) -> Expected:
    return Expected(path, id_, "bonafide", None, None, speaker, split, language, start, end)


def recording(path: str, id_: str, kind: str) -> Expected:
    return Expected(path, id_, kind)


def spoof(
    path: str,
    id_: str,
    artifact: str,
    attack: str | None = None,
    speaker: str | None = None,
    split: str | None = None,
    language: str | None = None,
    start: int | None = None,
    end: int | None = None,
) -> Expected:
    return Expected(path, id_, "spoof", artifact, attack, speaker, split, language, start, end)


PROTOCOLS_2019 = "LA/ASVspoof2019_LA_cm_protocols/ASVspoof2019.LA.cm"
PROTOCOLS_PARTIAL = "database/protocols/PartialSpoof_LA_cm_protocols/PartialSpoof.LA.cm"
DECRO = "petrichorwq-DECRO-dataset-6fc9884"
CFAD = "CFAD"
VOICE_LOG = "Saved: /base_path/Data/DeepVoice/AUDIO_SEGMENTS"
VOCODED_LJ = "common_voices_prompts_from_conformer_fastspeech2_pwg_ljspeech"

TRAIN = (
    Layout(
        "aishell3",
        "AIShell3",
        (
            bonafide(
                "train/wav/SSB1567/SSB15670385.wav",
                "AIShell3-SSB1567-SSB15670385",
                "SSB1567",
                "train",
                "zh",
            ),
            bonafide(
                "test/wav/SSB0005/SSB00050001.wav", "AIShell3-SSB0005-SSB00050001", "SSB0005", "test", "zh"
            ),
        ),
        stray="dev/wav/SSB0005/SSB00050002.wav",
    ),
    Layout(
        "asvspoof2019_la",
        "ASVspoof2019-LA",
        (
            bonafide(
                "LA/ASVspoof2019_LA_train/flac/LA_T_1138215.flac",
                "ASV19LA-LA_T_1138215",
                "LA_0079",
                "train",
                "en",
            ),
            spoof(
                "LA/ASVspoof2019_LA_dev/flac/LA_D_1047731.flac",
                "ASV19LA-LA_D_1047731",
                "mixed",
                "A01",
                "LA_0069",
                "validation",
                "en",
            ),
            spoof(
                "LA/ASVspoof2019_LA_eval/flac/LA_E_7583177.flac",
                "ASV19LA-LA_E_7583177",
                "mixed",
                "A10",
                "LA_0045",
                "test",
                "en",
            ),
        ),
        stray="LA/ASVspoof2019_LA_eval/LA_E_1.flac",
        tables={
            f"{PROTOCOLS_2019}.train.trn.txt": "LA_0079 LA_T_1138215 - - bonafide\n",
            f"{PROTOCOLS_2019}.dev.trl.txt": "LA_0069 LA_D_1047731 - A01 spoof\n",
            f"{PROTOCOLS_2019}.eval.trl.txt": "LA_0045 LA_E_7583177 - A10 spoof\nLA_0045 LA_E_9 - - bonafide\n",
        },
        missing="LA/ASVspoof2019_LA_*/flac/LA_E_9.flac",
    ),
    Layout(
        "asvspoof2021_la",
        "ASVspoof2021-LA",
        (
            spoof(
                "ASVspoof2021_LA_eval/flac/LA_E_9332881.flac",
                "ASV21LA-LA_E_9332881",
                "mixed",
                "A07",
                "LA_0009",
                "test",
                "en",
            ),
            bonafide(
                "ASVspoof2021_LA_eval/flac/LA_E_6866159.flac",
                "ASV21LA-LA_E_6866159",
                "LA_0020",
                "test",
                "en",
            ),
        ),
        stray="ASVspoof2021_LA_eval/flac/LA_E_0000001.flac",
        stray_reason="unlisted",
        tables={
            "ASVspoof2021-LA.txt": (
                "LA_0009 LA_E_9332881 alaw ita_tx A07 spoof notrim eval\n"
                "LA_0020 LA_E_6866159 none - bonafide bonafide trim hidden\n"
                "LA_0020 LA_E_5 g722 loc_tx A19 spoof notrim progress\n"
            )
        },
        missing="ASVspoof2021_LA_eval/flac/LA_E_5.flac",
    ),
    Layout(
        "asvspoof2021_df",
        "ASVspoof2021-DF",
        (
            spoof(
                "ASVspoof2021_DF_eval/flac/DF_E_2000011.flac",
                "ASV21DF-DF_E_2000011",
                "mixed",
                "A14",
                "LA_0023",
                "test",
                "en",
            ),
            spoof(
                "ASVspoof2021_DF_eval/flac/DF_E_2000013.flac",
                "ASV21DF-DF_E_2000013",
                "mixed",
                "Task1-team20",
                "TEF2",
                "test",
                None,
            ),
            bonafide(
                "ASVspoof2021_DF_eval/flac/DF_E_2000026.flac",
                "ASV21DF-DF_E_2000026",
                "LA_0043",
                "test",
                "en",
            ),
        ),
        stray="ASVspoof2021_DF_eval/DF_E_1.flac",
        tables={
            "ASVspoof2021-DF.txt": (
                "LA_0023 DF_E_2000011 nocodec asvspoof A14 spoof notrim progress traditional_vocoder - - - -\n"
                "TEF2 DF_E_2000013 low_m4a vcc2020 Task1-team20 spoof notrim eval unknown Task1 team20 FF E\n"
                "LA_0043 DF_E_2000026 mp3m4a asvspoof - bonafide notrim eval bonafide - - - -\n"
                "LA_0043 DF_E_7 mp3m4a asvspoof - bonafide notrim eval bonafide - - - -\n"
            )
        },
        missing="ASVspoof2021_DF_eval/flac/DF_E_7.flac",
    ),
    Layout(
        "asvspoof5",
        "ASVspoof5",
        (
            spoof(
                "ASVspoof5_dev/flac_D/D_0000000169.flac",
                "ASV5-A14-D_0000000169",
                "mixed",
                "A14",
                "D_0755",
                "validation",
                "en",
            ),
            bonafide(
                "ASVspoof5_dev/flac_D/D_0000000190.flac",
                "ASV5-bonafide-D_0000000190",
                "D_0106",
                "validation",
                "en",
            ),
            bonafide(
                "ASVspoof5_train/flac_T/T_0000000000.flac",
                "ASV5-bonafide-T_0000000000",
                "T_4850",
                "train",
                "en",
            ),
            spoof(
                "flac_E_eval/E_0009538969.flac",
                "ASV5-A20-E_0009538969",
                "mixed",
                "A20",
                "E_1607",
                "test",
                "en",
            ),
        ),
        stray="ASVspoof5_dev/D_0000000001.flac",
        tables={
            "ASVspoof5.dev.track_1.tsv": (
                "D_0755 D_0000000169 F - - - AC1 A14 spoof -\nD_0106 D_0000000190 M - - - - bonafide bonafide -\n"
            ),
            "ASVspoof5.train.tsv": "T_4850 T_0000000000 F - - - - bonafide bonafide -\n",
            "ASVspoof5.eval.track_1.tsv": (
                "E_1607 E_0009538969 F C05 4 E_0000000001 AC2 A20 spoof -\n"
                "E_1607 E_4 F - - - - bonafide bonafide -\n"
            ),
        },
        missing="ASVspoof5_*/flac_*/E_4.flac",
    ),
    Layout(
        "cfad",
        "CFAD",
        (
            spoof(
                f"{CFAD}/codec_version/test_seen_codec/fake_codec/lpcnet/SSB09660003_lpcnet_m4a.wav",
                "CFAD-codec_version-test-fake-SSB09660003_lpcnet_m4a",
                "vocoder",
                "lpcnet",
                "SSB0966",
                "test",
                "zh",
            ),
            bonafide(
                f"{CFAD}/clean_version/train_clean/real_clean/aishell1/BAC009S0002W0122.wav",
                "CFAD-clean_version-train-real-BAC009S0002W0122",
                "S0002",
                "train",
                "zh",
            ),
            spoof(
                f"{CFAD}/noisy_version/dev_noise/fake_noise/partiallyfake/x_7.wav",
                "CFAD-noisy_version-valid-fake-x_7",
                "partial",
                "partiallyfake",
                None,
                "validation",
                "zh",
            ),
            spoof(
                f"{CFAD}/clean_version/test_unseen_clean/fake_clean/tacohifigan/x_8.wav",
                "CFAD-clean_version-test-fake-x_8",
                "tts",
                "tacohifigan",
                None,
                "test",
                "zh",
            ),
            bonafide(
                f"{CFAD}/noisy_version/test_unseen_noise/real_noise/magicconversa/x_9.wav",
                "CFAD-noisy_version-test-real-x_9",
                None,
                "test",
                "zh",
            ),
        ),
        stray=f"{CFAD}/clean_version/eval_clean/real_clean/aishell1/BAC009S0002W0123.wav",
    ),
    Layout(
        "cnceleb2",
        "CNCeleb2",
        (
            bonafide(
                "CN-Celeb2_flac/data/id10936/recitation-02-028.flac",
                "CNCeleb2-id10936-recitation-02-028",
                "id10936",
                None,
                "zh",
            ),
        ),
        stray="CN-Celeb2_flac/eval/test/id1-singing-01-001.flac",
    ),
    Layout(
        "codecfake",
        "Codecfake",
        (
            spoof("train/F01_SSB13650058.wav", "Codecf-F01_SSB13650058", "codec", "F01", None, "train", "zh"),
            bonafide("dev/SSB13650058.wav", "Codecf-SSB13650058", None, "validation", "zh"),
            bonafide("dev/p225_001.wav", "Codecf-p225_001", None, "validation", "en"),
            spoof(
                "C7/F07_1034_121119_000001_000000.wav",
                "Codecf-F07_1034_121119_000001_000000",
                "codec",
                "F07",
                None,
                "test",
                "en",
            ),
        ),
        stray="train/F01_SSB00000000.wav",
        stray_reason="unlisted",
        ignored=("test/C1/F01_p225_001.wav",),
        tables={
            "label/train.txt": "F01_SSB13650058.wav fake 1\n",
            "label/dev.txt": "SSB13650058.wav real 0\np225_001.wav real 0\np226_001.wav real 0\n",
            "label/C7.txt": "F07_1034_121119_000001_000000.wav fake 7\n",
        },
        missing="dev/p226_001.wav",
    ),
    Layout(
        "codecfake_vctk",
        "CodecFake",
        (
            spoof(
                "processed/encodec_24khz+p272_103.wav",
                "CodecF-encodec_24khz+p272_103",
                "codec",
                "encodec_24khz",
                "p272",
                None,
                "en",
            ),
            spoof(
                "processed/a/b/audiodec_24k_320d+p225_001.wav",
                "CodecF-audiodec_24k_320d+p225_001",
                "codec",
                "audiodec_24k_320d",
                "p225",
                None,
                "en",
            ),
        ),
        stray="raw/p225_001.wav",
    ),
    Layout(
        "cvoicefake",
        "CVoiceFake",
        (
            spoof(
                "CVoiceFake_Large/EN/vctk_parallel_wavegan.v1_generated/common_voice_en_36752138_Gen.mp3",
                "CVoice-EN-vctk_parallel_wavegan.v1_generated-common_voice_en_36752138_Gen",
                "vocoder",
                "vctk_parallel_wavegan.v1_generated",
                None,
                None,
                "en",
            ),
            bonafide(
                "CVoiceFake_Large/CN/Bonafide/common_voice_zh-CN_1.mp3",
                "CVoice-CN-Bonafide-common_voice_zh-CN_1",
                None,
                None,
                "zh",
            ),
            spoof(
                "CVoiceFake_Large/DE/griffin_lim_generated/a.mp3",
                "CVoice-DE-griffin_lim_generated-a",
                "vocoder",
                "griffin_lim_generated",
                None,
                None,
                "de",
            ),
            bonafide("CVoiceFake_Large/IT/Bonafide/b.mp3", "CVoice-IT-Bonafide-b", None, None, "it"),
        ),
        stray="CVoiceFake_Large/DE/Bonafide/a.wav",
    ),
    Layout(
        "decro",
        "DECRO",
        (
            bonafide(f"{DECRO}/ch_dev/20032123.wav", "DECRO-valid-ZH-20032123", None, "validation", "zh"),
            spoof(
                f"{DECRO}/ch_eval/SSB0005_pwg.wav",
                "DECRO-test-ZH-SSB0005_pwg",
                "vocoder",
                "pwg",
                "SSB0005",
                "test",
                "zh",
            ),
            bonafide(f"{DECRO}/en_train/LA_T_1.wav", "DECRO-train-EN-LA_T_1", "LA_0079", "train", "en"),
            spoof(f"{DECRO}/en_train/v_1.wav", "DECRO-train-EN-v_1", "vc", "StarGAN", None, "train", "en"),
            spoof(f"{DECRO}/en_dev/v_1.wav", "DECRO-valid-EN-v_1", "tts", "baidu", None, "validation", "en"),
        ),
        stray=f"{DECRO}/en_test/LA_T_1.wav",
        tables={
            f"{DECRO}/ch_dev.txt": "unknown 20032123 - aishell1 bonafide\n",
            f"{DECRO}/ch_eval.txt": "SSB0005 SSB0005_pwg - pwg spoof\n",
            f"{DECRO}/ch_train.txt": "unknown gone - nvcnet-cn spoof\n",
            f"{DECRO}/en_dev.txt": "unknown v_1 - baidu spoof\n",
            f"{DECRO}/en_eval.txt": "",
            f"{DECRO}/en_train.txt": "LA_0079 LA_T_1 - asv19 bonafide\nunknown v_1 - StarGAN spoof\n",
        },
        missing=f"{DECRO}/ch_train/gone.wav",
    ),
    Layout(
        "dfadd",
        "DFADD",
        (
            spoof(
                "DATASET_PflowTTS/valid/p345_251_pflow.wav",
                "DFADD-DATASET_PflowTTS-p345_251_pflow",
                "tts",
                "DATASET_PflowTTS",
                "p345",
                "validation",
                "en",
            ),
            bonafide(
                "DATASET_VCTK_BONAFIDE/train/p225_001.flac",
                "DFADD-DATASET_VCTK_BONAFIDE-p225_001",
                "p225",
                "train",
                "en",
            ),
            spoof(
                "DATASET_MatchaTTS/test/p225_002.flac",
                "DFADD-DATASET_MatchaTTS-p225_002",
                "tts",
                "DATASET_MatchaTTS",
                "p225",
                "test",
                "en",
            ),
        ),
        stray="DATASET_MatchaTTS/dev/p225_003.wav",
    ),
    Layout(
        "diffusion_deepfake",
        "DiffusionDeepfake",
        (
            spoof(
                "tacotron2-DCA_wavegrad/LJ044-0144.wav",
                "DiffFake-tacotron2-DCA_wavegrad-LJ044-0144",
                "mixed",
                "tacotron2-DCA_wavegrad",
                "LJ",
                None,
                "en",
            ),
            spoof(
                "DiffGAN-TTS_aux/LJ001-0001.wav",
                "DiffFake-DiffGAN-TTS_aux-LJ001-0001",
                "mixed",
                "DiffGAN-TTS_aux",
                "LJ",
                None,
                "en",
            ),
        ),
        stray="LJ001-0001.wav",
    ),
    Layout(
        "diffssd",
        "DiffSSD",
        (
            spoof(
                "generated_speech/your_tts/speaker_1487/sentence_449.wav",
                "DiffSSD-your_tts-speaker_1487-EN-sentence_449",
                "tts",
                "your_tts",
                "speaker_1487",
                None,
                "en",
            ),
            spoof(
                "generated_speech/grad_tts/sentence_1.wav",
                "DiffSSD-grad_tts---EN-sentence_1",
                "tts",
                "grad_tts",
                None,
                None,
                "en",
            ),
        ),
        stray="grad_tts/sentence_1.wav",
        ignored=("real_speech/librispeech/1.wav",),
    ),
    Layout(
        "dsd",
        "DSD",
        (
            bonafide("09MKIS0040_12815.wav", "DSD-09MKIS0040_12815", "09MKIS0040", "train", "ko"),
            spoof(
                "12MWKH0048_000026.wav",
                "DSD-12MWKH0048_000026",
                "tts",
                "VITS",
                "12MWKH0048",
                "test",
                "ko",
            ),
            spoof("v_1.wav", "DSD-v_1", "vc", "FreeVC", "p225", "validation", "en"),
            bonafide("j_1.wav", "DSD-j_1", None, "train", "ja"),
        ),
        stray="more/j_2.wav",
        tables={
            "DSD_corpus_v1.csv": (
                "Utterence name (file name),TTS or VC,Is multi-speaker?,Language,Noise type 1,Source link,utt,"
                "group,Speaker name,Gender,Age,label,Model,subset,duration\n"
                "09MKIS0040_12815.wav,-,No,Korean,-,-,09MKIS0040_12815,AIHUB,09MKIS0040,Male,Adult,bonafide,-,"
                "train,6.25\n"
                "12MWKH0048_000026.wav,TTS,No,Korean,-,-,12MWKH0048_000026,VITS-AIHUB,12MWKH0048,Male,Adult,"
                "spoof,VITS,eval,1.552\n"
                'v_1.wav,VC,Yes,English,-,"a, b",v_1,VCTK,p225,Female,Adult,spoof,FreeVC,dev,2\n'
                "j_1.wav,-,No,Japanese,-,-,j_1,own,-,Female,Adult,bonafide,-,train,2\n"
                "gone.wav,-,No,Japanese,-,-,gone,own,-,Female,Adult,bonafide,-,train,2\n"
            )
        },
        missing="gone.wav",
    ),
    Layout(
        "fleurs",
        "FLEURS",
        (
            bonafide(
                "fleurs/data/ceb_ph/audio/train/10587240206760547719.wav",
                "FLEURS-CEB-10587240206760547719",
                None,
                "train",
                "ceb",
            ),
            bonafide("fleurs/data/cmn_hans_cn/audio/dev/1.wav", "FLEURS-CN-1", None, "validation", "zh"),
            bonafide("fleurs/data/yue_hant_hk/audio/test/2.wav", "FLEURS-YUE_HANT-2", None, "test", "yue"),
            bonafide("fleurs/data/es_419/audio/test/3.wav", "FLEURS-ES-3", None, "test", "es"),
        ),
        stray="fleurs/data/ceb_ph/1.wav",
        ignored=("fleurs-r/data/ceb_ph/audio/train/1.wav",),
    ),
    Layout(
        "fleurs_r",
        "FLEURS",
        (
            spoof(
                "fleurs-r/data/ceb_ph/audio/train/1.wav",
                "FLEURS-R-CEB-1",
                "restoration",
                "miipher",
                None,
                "train",
                "ceb",
            ),
            spoof(
                "fleurs-r/data/cmn_hans_cn/audio/dev/1.wav",
                "FLEURS-R-CN-1",
                "restoration",
                "miipher",
                None,
                "validation",
                "zh",
            ),
        ),
        stray="fleurs-r/data/ceb_ph/audio/1.wav",
        ignored=("fleurs/data/ceb_ph/audio/train/1.wav",),
    ),
    Layout(
        "habla",
        "HABLA",
        (
            bonafide(
                "FinalDataset_16khz/Real/Chile/clf_07508/clf_07508_00799857148.wav",
                "HABLA-real-clf_07508_00799857148",
                "clf_07508",
                None,
                "es",
            ),
            spoof(
                "FinalDataset_16khz/CycleGAN/Venezuela-Argentina/vem_02484-arm_01523/"
                "CycleGAN-vem_02484_00993837010-arm_01523_020267.wav",
                "HABLA-fake-CycleGAN-vem_02484_00993837010-arm_01523_020267",
                "vc",
                "CycleGAN",
                "arm_01523",
                None,
                "es",
            ),
            spoof(
                "FinalDataset_16khz/TTS/Chile/TTS-clf_07508_1.wav",
                "HABLA-fake-TTS-clf_07508_1",
                "tts",
                "TTS",
                None,
                None,
                "es",
            ),
        ),
        stray="FinalDataset_16khz/Noise/Chile/clf_07508/a.wav",
    ),
    Layout(
        "libritts",
        "LibriTTS",
        (
            bonafide(
                "dev-clean/1462/170138/1462_170138_000007_000001.wav",
                "Libri-1462_170138_000007_000001",
                "1462",
                "validation",
                "en",
            ),
            bonafide("train-other-500/20/205/20_205_0.wav", "Libri-20_205_0", "20", "train", "en"),
            bonafide("test-other/367/130732/367_1.wav", "Libri-367_1", "367", "test", "en"),
        ),
        stray="dev-clean/1462/1462_170138_000007_000002.wav",
    ),
    Layout(
        "libritts_r",
        "LibriTTS-R",
        (
            spoof(
                "dev-clean/1462/170138/1462_170138_000006_000003.wav",
                "Libri-R-1462_170138_000006_000003",
                "restoration",
                "miipher",
                "1462",
                "validation",
                "en",
            ),
            spoof(
                "train-clean-100/20/205/20_1.wav",
                "Libri-R-20_1",
                "restoration",
                "miipher",
                "20",
                "train",
                "en",
            ),
        ),
        stray="speakers/1462.wav",
    ),
    Layout(
        "libritts_vocoded",
        "LibriTTS-Vocoded",
        (
            spoof(
                "hn_sinc_nsf_hifi/train-clean-360/2638/10172/2638_10172_000059_000002.wav",
                "LibriTTS-Vo-hn_sinc_nsf_hifi-2638_10172_000059_000002",
                "vocoder",
                "hn_sinc_nsf_hifi",
                "2638",
                "train",
                "en",
            ),
            spoof(
                "hifigan/dev-other/1/2/1_2_3.wav",
                "LibriTTS-Vo-hifigan-1_2_3",
                "vocoder",
                "hifigan",
                "1",
                "validation",
                "en",
            ),
        ),
        stray="train-clean-360/2638/10172/2638_10172_000059_000002.wav",
    ),
    Layout(
        "ljspeech",
        "LJSpeech",
        (bonafide("LJSpeech-1.1/wavs/LJ018-0006.wav", "LJ-LJ018-0006", "LJ", None, "en"),),
        stray="LJ018-0006.wav",
    ),
    Layout(
        "mlaad",
        "MLAAD_v5",
        (
            spoof(
                "fake/ga/tts_models_multilingual_multi-dataset_bark/silent_bullet_09_f000284.wav",
                "MLAAD-ga-tts_models_multilingual_multi-dataset_bark-silent_bullet_09_f000284",
                "tts",
                "tts_models_multilingual_multi-dataset_bark",
                None,
                None,
                "ga",
            ),
            spoof("fake/zh-cn/xtts/a.wav", "MLAAD-ZH-xtts-a", "tts", "xtts", None, None, "zh"),
        ),
        stray="fake/ga/a.wav",
    ),
    Layout(
        "mls",
        "MLS",
        (
            bonafide(
                "mls_italian/train/audio/1595/5616/1595_5616_000327.flac",
                "MLS-IT-1595_5616_000327",
                "1595",
                "train",
                "it",
            ),
            bonafide("mls_polish/dev/audio/6/7/6_7_0.flac", "MLS-PL-6_7_0", "6", "validation", "pl"),
            bonafide("mls_portuguese/test/audio/8/9/8_9_0.flac", "MLS-PT-8_9_0", "8", "test", "pt"),
            bonafide("mls_dutch/test/audio/8/9/8_9_0.flac", "MLS-NL-8_9_0", "8", "test", "nl"),
        ),
        stray="mls_italian/train/1595_5616_000327.flac",
    ),
    Layout(
        "spoofceleb",
        "SpoofCeleb",
        (
            bonafide(
                "spoofceleb/flac/train/a00/id10318/YYsxcZ5saac-00002-006.flac",
                "SpoofCeleb-a00/id10318/YYsxcZ5saac-00002-006",
                "id10318",
                "train",
                "en",
            ),
            spoof(
                "spoofceleb/flac/development/a05/id10001/x-1.flac",
                "SpoofCeleb-a05/id10001/x-1",
                "tts",
                "a05",
                "id10001",
                "validation",
                "en",
            ),
            spoof(
                "spoofceleb/flac/evaluation/a17/id10002/x-2.flac",
                "SpoofCeleb-a17/id10002/x-2",
                "tts",
                "a17",
                "id10002",
                "test",
                "en",
            ),
        ),
        stray="spoofceleb/flac/evaluation/a17/id10002/x-3.flac",
        stray_reason="unlisted",
        tables={
            "spoofceleb/metadata/train.csv": (
                "file,speaker,attack\r\na00/id10318/YYsxcZ5saac-00002-006.flac,id10318,a00\r\n"
            ),
            "spoofceleb/metadata/development.csv": "file,speaker,attack\na05/id10001/x-1.flac,id10001,a05\n",
            "spoofceleb/metadata/evaluation.csv": (
                "file,speaker,attack\na17/id10002/x-2.flac,id10002,a17\na17/id10002/x-9.flac,id10002,a17\n"
            ),
        },
        missing="spoofceleb/flac/evaluation/a17/id10002/x-9.flac",
    ),
    Layout(
        "voicemos",
        "VoiceMOS",
        (
            spoof(
                "main/DATA/wav/sys00691-utt0682b32.wav",
                "VoiceMOS-DATA-wav-sys00691-utt0682b32",
                "mixed",
                "sys00691",
            ),
            bonafide(
                "main/blizzard/blizzard_wavs_and_scores_2008_release_version_1/A/x/news_2008_0001.wav",
                "VoiceMOS-2008-A-x/news_2008_0001",
            ),
            spoof(
                "main/blizzard_wavs_and_scores_2010_release_version_1/N/x/y/news_2010_0095.wav",
                "VoiceMOS-2010-N-x/y/news_2010_0095",
                "mixed",
            ),
        ),
        stray="main/DATA/sys00691-utt0682b32.wav",
    ),
    Layout(
        "voxceleb2",
        "VoxCeleb2",
        (
            bonafide(
                "dev/aac/id00082/lXxPuqI6Yac/00146.wav", "VoxCeleb2-id00082-lXxPuqI6Yac-00146", "id00082"
            ),
            bonafide("dev/aac/id00012/a/00001.m4a", "VoxCeleb2-id00012-a-00001", "id00012"),
        ),
        stray="dev/aac/id00012/00002.wav",
        ignored=("test/aac/id00017/a/00001.m4a",),
    ),
    Layout(
        "voxceleb2_vocoded",
        "VoxCeleb2-Vocoded",
        (
            spoof(
                "hifigan/dev/aac/id04972/f9crVjbT1Eg/00255.wav",
                "VoxCeleb2-Vo-hifigan-id04972-f9crVjbT1Eg-00255",
                "vocoder",
                "hifigan",
                "id04972",
            ),
        ),
        stray="dev/aac/id04972/f9crVjbT1Eg/00255.wav",
    ),
    Layout(
        "wavefake",
        "WaveFake",
        (
            spoof(
                "generated_audio/ljspeech_waveglow/LJ015-0205.wav",
                "WF-ljspeech_waveglow_LJ015-0205",
                "vocoder",
                "ljspeech_waveglow",
                None,
                None,
                "en",
            ),
            spoof(
                "generated_audio/jsut_parallel_wavegan/BASIC5000_0001_gen.wav",
                "WF-jsut_parallel_wavegan_BASIC5000_0001_gen",
                "vocoder",
                "jsut_parallel_wavegan",
                None,
                None,
                "ja",
            ),
            spoof(
                f"generated_audio/{VOCODED_LJ}/gen_0.wav",
                f"WF-{VOCODED_LJ}_gen_0",
                "tts",
                VOCODED_LJ,
                None,
                None,
                "en",
            ),
        ),
        stray="generated_audio/LJ015-0205.wav",
    ),
    Layout(
        "wildsvdd",
        "WildSVDD",
        (
            bonafide(
                "WildSVDD_Data_Sep2024_Processed/test_B/vocals/bonafide_Salibi_1.flac",
                "WildSVDD-test_B-vocals-bonafide_Salibi_1",
                None,
                "test",
            ),
            spoof(
                "WildSVDD_Data_Sep2024_Processed/train/mixture/deepfake_Salibi_2.flac",
                "WildSVDD-train-mixture-deepfake_Salibi_2",
                "mixed",
                None,
                None,
                "train",
            ),
        ),
        stray="WildSVDD_Data_Sep2024_Processed/train/drums/deepfake_Salibi_2.flac",
    ),
)

EVALUATION = (
    Layout(
        "add2023",
        "ADD2023",
        (
            bonafide(
                "Track1.2/testR2/wav/ADD2023_T1.2R2_E_00000003.wav",
                "ADD2023-ADD2023_T1.2R2_E_00000003.wav",
                None,
                "test",
                "zh",
            ),
            spoof(
                "Track1.2/testR2/wav/ADD2023_T1.2R2_E_00000004.wav",
                "ADD2023-ADD2023_T1.2R2_E_00000004.wav",
                "mixed",
                None,
                None,
                "test",
                "zh",
            ),
        ),
        stray="Track1.2/testR2/ADD2023_T1.2R2_E_00000005.wav",
        tables={
            "Track1.2/testR2/label.txt": (
                "ADD2023_T1.2R2_E_00000003.wav genuine\n"
                "ADD2023_T1.2R2_E_00000004.wav fake\n"
                "ADD2023_T1.2R2_E_00000009.wav fake\n"
            )
        },
        missing="Track1.2/testR2/wav/ADD2023_T1.2R2_E_00000009.wav",
    ),
    Layout(
        "deepvoice",
        "DeepVoice",
        (
            spoof(
                "KAGGLE/AUDIO/FAKE/biden-to-taylor.wav",
                "DeepVoice-VC_biden-to-taylor_seg_1",
                "vc",
                "VC",
                language="en",
                start=0,
                end=209527,
            ),
            spoof(
                "KAGGLE/AUDIO/FAKE/biden-to-taylor.wav",
                "DeepVoice-VC_biden-to-taylor_seg_2",
                "vc",
                "VC",
                language="en",
                start=59159,
                end=311206,
            ),
            bonafide(
                "KAGGLE/AUDIO/REAL/musk-original.wav",
                "DeepVoice-VC_musk-original_seg_1",
                language="en",
                start=0,
                end=400000,
            ),
        ),
        stray="KAGGLE/AUDIO/musk-original.wav",
        ignored=("KAGGLE/AUDIO_SEGMENTS/REAL/musk-original_seg_1.wav", "DEMONSTRATION/linus.wav"),
        tables={
            "DeepVoice_seg_log.txt": (
                "Audio: biden-to-taylor_seg_1, start at: 0, end at: 209527\n"
                f"{VOICE_LOG}/FAKE/biden-to-taylor_seg_1.wav\n"
                "Audio: biden-to-taylor_seg_2, start at: 59159, end at: 311206\n"
                f"{VOICE_LOG}/FAKE/biden-to-taylor_seg_2.wav\n"
                "Audio: musk-original_seg_1, start at: 0, end at: 400000\n"
                f"{VOICE_LOG}/REAL/musk-original_seg_1.wav\n"
                "Audio: obama-original_seg_1, start at: 0, end at: 400000\n"
                f"{VOICE_LOG}/REAL/obama-original_seg_1.wav\n"
                "Processing complete!\n"
            )
        },
        missing="KAGGLE/AUDIO/*/obama-original.wav",
    ),
    Layout(
        "fakeorreal",
        "FakeOrReal",
        (
            spoof(
                "for-original/testing/fake/file7.wav",
                "FoR-testing-fake-file7",
                "tts",
                None,
                None,
                "test",
                "en",
            ),
            bonafide(
                "for-original/validation/real/file8.mp3",
                "FoR-validation-real-file8",
                None,
                "validation",
                "en",
            ),
            bonafide("for-original/training/real/file9.wav", "FoR-training-real-file9", None, "train", "en"),
        ),
        stray="for-original/training/file9.wav",
        ignored=("for-2seconds/training/real/file9.wav", "backup/file9.wav"),
    ),
    Layout(
        "fakeorreal_norm",
        "FakeOrReal",
        (
            spoof(
                "for-norm/testing/fake/file7.mp3.wav_16k.wav_norm.wav_mono.wav_silence.wav",
                "FoR_norm-testing-fake-file7.mp3.wav_16k.wav_norm.wav_mono.wav_silence",
                "tts",
                None,
                None,
                "test",
                "en",
            ),
            bonafide(
                "for-norm/validation/real/file8.wav_16k.wav_norm.wav_mono.wav_silence.wav",
                "FoR_norm-validation-real-file8.wav_16k.wav_norm.wav_mono.wav_silence",
                None,
                "validation",
                "en",
            ),
        ),
        stray="for-norm/file9.wav",
        ignored=("for-original/training/real/file9.wav",),
    ),
    Layout(
        "in_the_wild",
        "In-the-Wild",
        (
            spoof("release_in_the_wild/0.wav", "ItW-0", "mixed", None, "Alec Guinness", None, "en"),
            bonafide("release_in_the_wild/1.wav", "ItW-1", "Alec Guinness", None, "en"),
        ),
        stray="release_in_the_wild/3.wav",
        stray_reason="unlisted",
        tables={
            "release_in_the_wild/meta.csv": (
                "file,speaker,label\n0.wav,Alec Guinness,spoof\n1.wav,Alec Guinness,bona-fide\n"
                '2.wav,"Guinness, Alec",spoof\n'
            )
        },
        missing="release_in_the_wild/2.wav",
    ),
    Layout(
        "deepfake_eval_2024",
        "Deepfake-Eval-2024",
        (
            bonafide("audio-data/a.mp3", "DFEval2024-a.mp3", None, "train"),
            spoof("audio-data/a.m4a", "DFEval2024-a.m4a", "mixed", None, None, "test"),
        ),
        stray="audio-data/b.mp3",
        stray_reason="unlisted",
        ignored=("data/segmented/train/4s/real/a_seg1.mp3",),
        tables={
            "audio-metadata-publish.csv": (
                "Index,Filename,Ground Truth,Finetuning Set\n"
                "0,a.mp3,Real,Train\n1,a.m4a, fake ,test\n2,gone.wav,Fake,Test\n"
            )
        },
        missing="audio-data/gone.wav",
    ),
    Layout(
        "partialspoof",
        "PartialSpoof",
        (
            bonafide("database/train/con_wav/LA_T_1138215.wav", "PS-LA_T_1138215", "LA_0079", "train", "en"),
            spoof(
                "database/dev/con_wav/CON_D_0000000.wav",
                "PS-CON_D_0000000",
                "partial",
                None,
                "LA_0069",
                "validation",
                "en",
            ),
            spoof(
                "database/eval/con_wav/CON_E_0000000.wav",
                "PS-CON_E_0000000",
                "partial",
                None,
                "LA_0045",
                "test",
                "en",
            ),
        ),
        stray="database/eval/CON_E_0000001.wav",
        tables={
            f"{PROTOCOLS_PARTIAL}.train.trl.txt": "LA_0079 LA_T_1138215 - - bonafide\n",
            f"{PROTOCOLS_PARTIAL}.dev.trl.txt": "LA_0069 CON_D_0000000 - CON spoof\n",
            f"{PROTOCOLS_PARTIAL}.eval.trl.txt": (
                "LA_0045 CON_E_0000000 - CON spoof\nLA_0045 CON_E_0000009 - CON spoof\n"
            ),
            "database/vad/eval/CON_E_0000000.vad": "0.00 0.35 2\n0.35 1.20 0\n1.20 2.00 1\n",
        },
        missing="database/eval/con_wav/CON_E_0000009.wav",
    ),
    Layout(
        "llamapartialspoof",
        "LlamaPartialSpoof",
        (
            bonafide(
                "R01TTS.0.a/dev-clean_1462_170145_000020_000002.wav",
                "LPS-a-dev-clean_1462_170145_000020_000002",
                None,
                "test",
                "en",
            ),
            spoof("R01TTS.0.a/dev01_full_1.wav", "LPS-a-dev01_full_1", "tts", None, None, "test", "en"),
            spoof(
                "R01TTS.0.b/dev01_partial_1.wav", "LPS-b-dev01_partial_1", "partial", None, None, "test", "en"
            ),
        ),
        stray="R01TTS.0.c/dev01_partial_1.wav",
        tables={
            "label_R01TTS.0.a.txt": (
                "dev-clean_1462_170145_000020_000002 2.0000 bonafide 0.0000-2.0000-bonafide\n"
                "dev01_full_1 1.5000 spoof 0.0000-1.5000-spoof\n"
            ),
            "label_R01TTS.0.b.txt": (
                "dev01_partial_1 2.0000 spoof 0.0000-0.5000-bonafide 0.5000-1.2500-spoof 1.2500-2.0000-bonafide\n"
                "dev01_partial_2 2.0000 spoof 0.0000-2.0000-spoof\n"
            ),
        },
        missing="R01TTS.0.b/dev01_partial_2.wav",
    ),
)

AUGMENTATION = (
    Layout(
        "musan",
        "musan",
        (
            recording("noise/free-sound/noise-free-sound-0000.wav", "MUSAN-noise-free-sound-0000", "noise"),
            recording(
                "noise/sound-bible/noise-sound-bible-0001.wav", "MUSAN-noise-sound-bible-0001", "noise"
            ),
            recording("music/fma-western-art/music-fma-wa-0001.wav", "MUSAN-music-fma-wa-0001", "music"),
            recording("music/jamendo/music-jamendo-0000.wav", "MUSAN-music-jamendo-0000", "music"),
            recording("speech/librivox/speech-librivox-0000.wav", "MUSAN-speech-librivox-0000", "speech"),
            recording("speech/us-gov/speech-us-gov-0000.wav", "MUSAN-speech-us-gov-0000", "speech"),
        ),
        stray="noise/noise.wav",
    ),
    Layout(
        "rirs_noises",
        "RIRS_NOISES",
        (
            recording(
                "simulated_rirs/smallroom/Room001/Room001-00001.wav", "RIRS-smallroom-Room001-00001", "rir"
            ),
            recording(
                "simulated_rirs/largeroom/Room001/Room001-00001.wav", "RIRS-largeroom-Room001-00001", "rir"
            ),
            recording(
                "real_rirs_isotropic_noises/RVB2014_type1_rir_largeroom1_far_angla.wav",
                "RIRS-real_rirs_isotropic_noises-RVB2014_type1_rir_largeroom1_far_angla",
                "rir",
            ),
            recording(
                "real_rirs_isotropic_noises/air_type1_air_binaural_aula_carolina_1_7_90_3.wav",
                "RIRS-real_rirs_isotropic_noises-air_type1_air_binaural_aula_carolina_1_7_90_3",
                "rir",
            ),
            recording(
                "real_rirs_isotropic_noises/RVB2014_type1_noise_largeroom1_1.wav",
                "RIRS-real_rirs_isotropic_noises-RVB2014_type1_noise_largeroom1_1",
                "noise",
            ),
            recording(
                "pointsource_noises/noise-free-sound-0000.wav",
                "RIRS-pointsource_noises-noise-free-sound-0000",
                "noise",
            ),
        ),
        stray="simulated_rirs/hall/Room001/Room001-00001.wav",
    ),
)

LAYOUTS = TRAIN + EVALUATION + AUGMENTATION
