"""Audio: the bytes of an audio file become a 16 kHz mono waveform."""
