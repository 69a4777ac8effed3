"""Speech synthesis with espeak-ng."""

import numpy as np
import pytest

from pipeline.synthetic.plan import load_sentences
from pipeline.synthetic.speech import SPEECH_RATE, Synthesizer, Voice, trim_silence


def voice(language: str, variant: str = "m1", pitch: int = 50) -> Voice:
    return Voice(language, variant, pitch, pitch_range=50, words_per_minute=170)


def test_synthesizers_with_equal_seeds_and_calls_give_equal_samples():
    with Synthesizer(seed=1) as one, Synthesizer(seed=1) as other:
        one.speak("Something else, to change the state of the library.", voice("en"))
        other.speak("Something else, to change the state of the library.", voice("en"))
        first, second = (speaker.speak("Good evening.", voice("de", "f2")) for speaker in (one, other))
    assert np.array_equal(first, second)


def test_every_language_of_the_demo_can_be_spoken():
    languages = load_sentences("training") | load_sentences("evaluation")
    assert len(languages) >= 12
    with Synthesizer() as synthesizer:
        for language, sentences in languages.items():
            for sentence in sentences:
                text = sentence.format(number=17, time="7:45")
                seconds = trim_silence(synthesizer.speak(text, voice(language))).size / SPEECH_RATE
                assert 0.7 < seconds < 8, (language, sentence)


def test_voice_and_pitch_change_the_audio():
    with Synthesizer() as synthesizer:
        spoken = [
            trim_silence(synthesizer.speak("One, two, three.", who))
            for who in (voice("en"), voice("en", "f3"), voice("en", pitch=90))
        ]
    shortest = min(speech.size for speech in spoken)
    for other in spoken[1:]:
        assert abs(np.corrcoef(spoken[0][:shortest], other[:shortest])[0, 1]) < 0.5


def test_an_unknown_language_is_an_error_that_names_the_voice():
    with Synthesizer() as synthesizer, pytest.raises(ValueError, match=r"tlhingan\+m1"):
        synthesizer.speak("nuqneH", voice("tlhingan"))


def test_trimming_removes_silence_around_speech_but_not_inside():
    speech = np.array([0, 0, 0.5, 0, -0.5, 0], dtype=np.float32)
    assert trim_silence(speech).tolist() == [0.5, 0, -0.5]
