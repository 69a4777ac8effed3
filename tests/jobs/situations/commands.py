"""Commands with a wrong flag or value: refused at once, with nothing written."""

from __future__ import annotations

from pathlib import Path

from tests.corpora import write_in_the_wild
from tests.jobs.situations.situation import Place, Situation


def data(place: Place) -> None:
    """A folder with one corpus of two clips."""
    write_in_the_wild(place.here / "data", count=2, seconds=0.1)


def settings(place: Place) -> None:
    """Files of settings."""
    (place.here / "wrong.toml").write_text("[training]\nlog_every = 0\n")
    (place.here / "unknown.toml").write_text("[batch]\nmax_second = 30\n")
    (place.here / "noise.toml").write_text('[[augment]]\nname = "noise"\nfrom = "musan"\nsnr_db = [20, 5]\n')
    (place.here / "codec.toml").write_text('[[augment]]\nname = "codec"\ncodecs = ["mp4"]\n')


def store(place: Place) -> None:
    """The store of the tests of training."""
    trainings: Path = place.fixture("place")
    (place.here / "store").symlink_to(trainings / "store")


INGEST = "ingest --root data --store store"
TRAIN = "train --store store --out run"
SCORE = "score --checkpoint detector.safetensors --out scores"

SITUATIONS = [
    # flags and files of settings
    Situation(
        what="a misspelled flag",
        command="ingest --root data --stor store",
        line="unknown argument --stor; did you mean --store? (all flags: bonafide ingest --help)",
    ),
    Situation(
        what="a flag that is given twice",
        command=f"{INGEST} --corpora mlaad --corpora fleurs",
        line="--corpora is given twice; give it once, a list with commas between its items (…)",
    ),
    Situation(
        what="a list that is empty, as from an unset variable of the shell",
        command=f"{INGEST} --corpora=",
        line="--corpora: expected names separated by commas, none of them empty or repeated, got '' (…)",
    ),
    Situation(
        what="a corpus that is named twice",
        command="verify store --corpora mlaad,mlaad",
        line="--corpora: expected names separated by commas, none of them empty or repeated, got 'mlaad,mlaad' (…)",
    ),
    Situation(
        what="a wrong value in a file of settings",
        command=f"{TRAIN} --config wrong.toml",
        line="{here}/wrong.toml: --training.log-every: expected an integer from 1 to 1,000,000,000, got '0' (…)",
        prepare=settings,
    ),
    Situation(
        what="an unknown key in a file of settings",
        command=f"{TRAIN} --config unknown.toml",
        line="{here}/unknown.toml: unknown argument --batch.max-second; did you mean --batch.max-seconds? (…)",
        prepare=settings,
    ),
    # locations
    Situation(
        what="an S3 URI with one slash",
        command="ingest --root data --store s3:/bucket/store",
        line="--store: expected a path or an s3:// URI, got 's3:/bucket/store' (…)",
    ),
    Situation(
        what="a storage that is not supported",
        command="score --checkpoint gs://bucket/detector.safetensors --audio calls --out scores",
        line="--checkpoint: expected a path or an s3:// URI, or models:/NAME@best, got 'gs://bucket/…' (…)",
    ),
    Situation(
        what="the home folder of an unknown user",
        command="verify ~nobody-of-this-name/store",
        line="--store: ~nobody-of-this-name/store: the home folder is not known; write the path without ~ (…)",
    ),
    Situation(
        what="a demo on S3",
        command="demo --out s3://bucket/demo",
        line="--out: expected a local path, got 's3://bucket/demo' (…)",
    ),
    Situation(
        what="a folder in place of a file to write",
        command="corpora --store store --html pages/",
        line="--html: pages/ is a folder; give the name of a file (…)",
    ),
    Situation(
        what="one folder for the store and the training",
        command="train --store store --out ./store/",
        line="--store and --out are both {here}/store; give the training a folder of its own",
    ),
    Situation(
        what="one folder for the corpora and the store",
        command="ingest --root data --store data",
        line="--root and --store are both {here}/data; give the store a folder of its own",
    ),
    Situation(
        what="scores that are written over their input",
        command="score --checkpoint detector.safetensors --audio calls --out calls",
        line="--out {here}/calls is the input as well; give the scores a folder of their own",
    ),
    Situation(
        what="a report that is written over scores",
        command="evaluate --scores a,b --out b",
        line="--out {here}/b is in --scores; give the report a folder of its own",
    ),
    Situation(
        what="a folder of scores that is named twice",
        command="evaluate --scores a,./a --out report",
        line="--scores: expected paths or s3:// URIs separated by commas, none repeated, got 'a,./a' (…)",
    ),
    Situation(
        what="a folder without a store",
        command=TRAIN,
        line="{here}/store: no snapshot; build one with `bonafide ingest --store {here}/store`",
    ),
    # MLflow
    Situation(
        what="an experiment without MLflow",
        command=f"{INGEST} --experiment first",
        line="--experiment first is in MLflow: give --tracking-uri URI",
    ),
    # ingest
    Situation(
        what="a shard size that is not positive",
        command=f"{INGEST} --shard-mib -1",
        line="--shard-mib: expected a number from 0.01 to 65,536, got '-1' (…)",
    ),
    Situation(
        what="an unknown resampler",
        command=f"{INGEST} --resampler foo",
        line="--resampler: invalid choice: 'foo' (choose from 'soxr_hq', 'torchaudio') (…)",
    ),
    Situation(
        what="an artifact without a protocol",
        command=f"{INGEST} --artifact tts",
        line="--artifact is for the corpus of a protocol: give --protocol FILE",
    ),
    Situation(
        what="a role without a protocol",
        command=f"{INGEST} --role evaluation",
        line="--role is for the corpus of a protocol: give --protocol FILE",
    ),
    Situation(
        what="an unknown artifact",
        command=f"{INGEST} --protocol train.csv --artifact vocder",
        line="--artifact: unknown artifact 'vocder'; did you mean vocoder? (…)",
    ),
    Situation(
        what="chunks of a negative length",
        command=f"{INGEST} --chunk-s -4",
        line="--chunk-s: expected a number from 0.025 to 14,400, or 0, got '-4' (…)",
    ),
    Situation(
        what="chunks for corpora that are not cut",
        command=f"{INGEST} --chunk-s 4",
        line="--chunk-s 4: none of in_the_wild is cut into chunks; leave it out",
        prepare=data,
    ),
    Situation(
        what="a recipe that has none of the corpora",
        command=f"{INGEST} --corpora in_the_wild --recipe antideepfake",
        line="--recipe antideepfake has no in_the_wild; leave it out, or name its corpora",
        prepare=data,
    ),
    Situation(
        what="an unknown corpus",
        command=f"{INGEST} --corpora in_the_wlid",
        line="unknown corpus 'in_the_wlid'; did you mean in_the_wild?",
    ),
    Situation(
        what="an unknown recipe",
        command=f"{INGEST} --recipe antideepfakes",
        line="--recipe: unknown recipe 'antideepfakes'; did you mean antideepfake? (…)",
    ),
    Situation(
        what="a share of losses in percent",
        command=f"{INGEST} --max-loss 5",
        line="--max-loss: expected a number from 0 to 1, got '5' (…)",
    ),
    # train
    Situation(
        what="a misspelled augmentation",
        command=f"{TRAIN} --augment rawbost5",
        line="--augment: unknown augmentation 'rawbost5'; did you mean rawboost5? (…)",
    ),
    Situation(
        what="an augmentation that needs recordings, without them",
        command=f"{TRAIN} --augment noise",
        line="--augment: noise: missing from: Corpora of the store with the role augmentation, which …",
    ),
    Situation(
        what="a reversed range of an augmentation",
        command=f"{TRAIN} --config noise.toml",
        line="{here}/noise.toml: --augment: noise: snr_db: expected [low, high] with low ≤ high …, got [20, 5] (…)",
        prepare=settings,
    ),
    Situation(
        what="an unknown codec",
        command=f"{TRAIN} --config codec.toml",
        line="{here}/codec.toml: --augment: codec: codecs: unknown 'mp4'; did you mean mp3? (…)",
        prepare=settings,
    ),
    Situation(
        what="a codec on bona fide speech while codecs count as spoof",
        command=f"{TRAIN} --augment codec",
        line="--augment: codec would leave traces of the artifact 'codec' on bona fide speech, and the recipe counts …",
        prepare=store,
        needs_ray=True,
    ),
    Situation(
        what="recordings for augmentation as a corpus to train on",
        command=f"{TRAIN} --corpora musan",
        line="musan is an augmentation corpus, whose recordings are not utterances; leave its name out here, and …",
        prepare=store,
        needs_ray=True,
    ),
    Situation(
        what="a misspelled variant",
        command=f"{TRAIN} --variant xlsr_300",
        line="--variant: unknown variant 'xlsr_300'; did you mean xlsr_300m? (…)",
    ),
    Situation(
        what="a negative number of loader workers",
        command=f"{TRAIN} --loader-workers -1",
        line="--loader-workers: expected an integer from 0 to 1,000, got '-1' (…)",
    ),
    Situation(
        what="a minimum of workers above the maximum",
        command=f"{TRAIN} --num-workers 4,2",
        line="--num-workers: expected an integer, or two in ascending order separated by a comma, from 1 to …",
    ),
    Situation(
        what="a negative weight",
        command=f"{TRAIN} --batch.weights spoof=-1",
        line="--batch.weights: expected name=number pairs separated by commas, no name repeated, from 0 to 255, …",
    ),
    Situation(
        what="a weight of an unknown corpus",
        command=f"{TRAIN} --batch.weights libritts_z=2",
        line="--batch.weights: 'libritts_z' is not a corpus, label or corpus/label; known: asvspoof2019_la, …",
        prepare=store,
        needs_ray=True,
    ),
    Situation(
        what="weights of 0 for every spoof",
        command=f"{TRAIN} --batch.weights asvspoof2019_la/spoof=0",
        line="the weights leave 0 spoof utterances per epoch; raise those in --batch.weights or in the recipe …",
        prepare=store,
        needs_ray=True,
    ),
    Situation(
        what="a learning rate that lost its minus sign",
        command=f"{TRAIN} --training.optimiser.learning-rate 1e6",
        line="--training.optimiser.learning-rate: expected a number above 0 up to 1, got '1e6' (…)",
    ),
    Situation(
        what="a number that is none",
        command=f"{TRAIN} --training.optimiser.clip-norm nan",
        line="--training.optimiser.clip-norm: expected a number above 0 up to 1,000,000,000, or inf, got 'nan' (…)",
    ),
    Situation(
        what="a warm-up longer than the training",
        command=f"{TRAIN} --training.optimiser.num-steps 100",
        line="--training.optimiser.num-warmup-steps 80000 is more than --training.optimiser.num-steps 100; …",
    ),
    Situation(
        what="a batch shorter than a crop",
        command=f"{TRAIN} --batch.max-seconds 5",
        line="--batch.max-seconds 5 is less than --batch.crop-max-s 13; a batch has to hold the longest crop",
    ),
    Situation(
        what="chunks longer than a batch",
        command=f"{TRAIN} --chunk-s 120",
        line="--chunk-s 120 is longer than a batch of --batch.max-seconds 100; raise that, or shorten the chunks",
    ),
    Situation(
        what="a setting of another loss",
        command=f"{TRAIN} --training.loss.scale 30",
        line="--training.loss.scale has no effect on cross_entropy; leave it out, or add "
        "--training.loss.name oc_softmax",
    ),
    Situation(
        what="a search for the largest batch without a GPU",
        command=f"{TRAIN} --find-batch-seconds --device cpu",
        line="--find-batch-seconds measures the memory of a GPU; leave out --device cpu",
    ),
    Situation(
        what="a training on GPUs that the machine has not",
        command=f"{TRAIN} --device cuda --num-workers 8 --variant tiny",
        line="--device cuda needs a GPU for each worker, 8 in total, and this machine has 0; …",
        prepare=store,
        needs_ray=True,
        environment={"CUDA_VISIBLE_DEVICES": ""},
    ),
    Situation(
        what="a name under which MLflow registers nothing",
        command=f"{TRAIN} --register team/detector",
        line="--register 'team/detector' cannot name a registered model; it must be non-empty, without / @ : or quotes",
    ),
    # score and evaluate
    Situation(
        what="nothing to score",
        command=SCORE,
        line="give either --store, to score corpora of a store, or --audio, to score a folder",
    ),
    Situation(
        what="a folder of audio that does not exist",
        command=f"{SCORE} --audio calls",
        line="{here}/calls: no such folder; --audio expects a folder of audio files",
    ),
    Situation(
        what="an unknown window",
        command=f"{SCORE} --audio calls --window window:4:median",
        line="--window: unknown window policy 'window:4:median'; known: whole, window:SECONDS:first|mean|max (…)",
    ),
    Situation(
        what="parts of no length",
        command=f"{SCORE} --audio calls --part-seconds 0",
        line="--part-seconds: expected a number from 1 to 1,000,000, got '0' (…)",
    ),
    Situation(
        what="GPUs for scorers on the CPU",
        command=f"{SCORE} --audio calls --device cpu --gpus-per-worker 0.5",
        line="--gpus-per-worker needs GPUs; leave out --device cpu",
    ),
    Situation(
        what="a GPU and a half",
        command=f"{SCORE} --audio calls --gpus-per-worker 1.5",
        line="--gpus-per-worker 1.5: give a fraction below 1, or a whole number",
    ),
    Situation(
        what="an interval from no resamples",
        command="evaluate --scores a --out report --num-bootstrap 0",
        line="--num-bootstrap: expected an integer from 1 to 1,000,000, got '0' (…)",
    ),
    Situation(
        what="a report on scores that do not exist",
        command="evaluate --scores a --out report",
        line="{here}/a: no scores here; write them with `bonafide score --out {here}/a`",
    ),
    Situation(
        what="a calibration with two thresholds",
        command="calibrate --scores a --out c.json --false-alarm 0.01 --threshold 2",
        line="--false-alarm and --threshold both choose a threshold; give one of them",
    ),
    Situation(
        what="a calibration on scores that do not exist",
        command="calibrate --scores a --out c.json",
        line="{here}/a: no scores here; write them with `bonafide score --out {here}/a`",
    ),
    Situation(
        what="a recipe for scores of evaluation corpora",
        command=f"{SCORE} --store store --recipe antideepfake",
        line="--recipe decides what validates a training; add --use validation, or remove it",
    ),
    # the other commands
    Situation(
        what="a recipe without a card",
        command="corpora --store store --export-protocol p.csv --recipe antideepfake",
        line="--recipe only affects the card; add --html FILE",
    ),
    Situation(
        what="a store and a folder of corpora at once",
        command="corpora --store store --html card.html --root data",
        line="--store shows a store, --root and --roots show files; give one of the two",
    ),
    Situation(
        what="an age that is no number",
        command="gc store --older-than-hours nan",
        line="--older-than-hours: expected a number from 0 to 1,000,000,000, got 'nan' (…)",
    ),
    Situation(
        what="a demo without audio",
        command="demo --minutes 0",
        line="--minutes: expected a number from 1 to 10,000, got '0' (…)",
    ),
    Situation(
        what="an unknown precision to measure",
        command="benchmark train --train.precisions fp8",
        line="--train.precisions: unknown precision 'fp8'; … (all flags: bonafide benchmark --help)",
    ),
]
