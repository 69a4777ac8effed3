"""Batches are read from tars, and every reader returns the same bits."""

from __future__ import annotations

import contextlib
import http.server
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.data.audio.errors import AudioError
from pipeline.data.audio.flac import decode_flac, encode_flac, quantise
from pipeline.data.audio.waveform import Waveform
from pipeline.data.corpora.domains import Domain
from pipeline.data.loading.augment.composition import AUGMENTATIONS, augmenter, read_steps, sources_of
from pipeline.data.loading.augment.step import RecordedAugmentation
from pipeline.data.loading.batches import (
    Batch,
    TrainingBatches,
    _prefetch_one,
    evaluation_batches,
    plan_evaluation,
)
from pipeline.data.loading.buckets import BatchConfig
from pipeline.data.loading.reading import MAX_REQUESTS
from pipeline.data.loading.workers import MAX_HELD
from pipeline.data.store.index import Index
from pipeline.errors import InputError
from pipeline.storage import Folder
from tests.data.loading.augment.recorded import record
from tests.data.loading.augmentations import add_noise, die, fail

CONFIG = BatchConfig(max_seconds=4.0, num_buckets=3, crop_min_s=0.8, crop_max_s=1.2, window_shards=2)


def make_waveform(number: int) -> Waveform:
    """Generate 0.2 to 2 s of noise, with an offset for some numbers."""
    rng = np.random.default_rng(number)
    noise = rng.standard_normal(3_200 + 1_600 * (number % 19)) * 0.05 + 0.01 * (number % 3)
    return decode_flac(encode_flac(quantise(noise.astype(np.float32))))


def write_store(num: int = 60, per_shard: int = 25) -> tuple[dict[str, bytes], Index]:
    """Write utterances of noise to tars and index them."""
    tars: dict[str, bytes] = {}
    offsets, sizes = [], []
    for begin in range(0, num, per_shard):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for number in range(begin, min(begin + per_shard, num)):
                data = encode_flac(quantise(make_waveform(number)))
                info = tarfile.TarInfo(f"{number:016x}.flac")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
                sizes.append(len(data))
                offsets.append(file.tell() - (-(-len(data) // 512) * 512))
        tars[f"shards/noise/{begin // per_shard}.tar"] = file.getvalue()
    rows = np.arange(num)
    return tars, Index(
        shards=tuple(tars),
        corpora=("noise",),
        domains=(Domain("noise", "spoof", "noise/a"), Domain("noise", "bonafide", "noise")),
        shard=(rows // per_shard).astype(np.int32),
        offset=np.array(offsets, np.int64),
        num_bytes=np.array(sizes, np.int32),
        seconds=np.array([len(make_waveform(number)) / 16_000 for number in range(num)], np.float32),
        label=(rows % 2).astype(np.int8),
        domain=(rows % 2).astype(np.int32),
        uid=rows.astype(np.uint64),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, Index]:
    folder = Folder(str(tmp_path_factory.mktemp("store")))
    tars, index = write_store()
    for name, data in tars.items():
        folder.commit(name, data)
    return folder, index


def utterances(batches: Iterator[Batch]) -> dict[str, NDArray[np.float32]]:
    """Collect each utterance as the detector receives it, without padding."""
    collected: dict[str, NDArray[np.float32]] = {}
    for batch in batches:
        assert batch.waveform.dtype == torch.float32
        assert batch.num_samples.dtype == batch.label.dtype == torch.int64
        for row, num_samples, label, uid in zip(
            batch.waveform, batch.num_samples.tolist(), batch.label.tolist(), batch.uid, strict=True
        ):
            assert not row[num_samples:].any()
            assert uid not in collected
            assert label == int(uid, 16) % 2
            collected[uid] = row[:num_samples].numpy()
    return collected


def normalise(waveform: Waveform) -> NDArray[np.float64]:
    centred = waveform.astype(np.float64) - waveform.mean(dtype=np.float64)
    return np.asarray(centred / np.sqrt((centred**2).mean() + 1e-5))


def test_utterances_are_normalised_and_padded_with_zeros(store: tuple[Folder, Index]) -> None:
    folder, index = store
    loaded = utterances(TrainingBatches(folder, index, CONFIG)(epoch=0))
    assert len(loaded) > 50
    for uid, waveform in loaded.items():
        stored = make_waveform(int(uid, 16))
        if len(stored) <= 1.2 * 16_000:
            assert len(waveform) == len(stored)
            assert np.abs(waveform - normalise(stored)).max() < 1e-5
        assert abs(waveform.mean()) < 1e-5


def test_a_long_utterance_is_cropped_to_a_window_and_normalised(store: tuple[Folder, Index]) -> None:
    folder, index = store
    for uid, waveform in utterances(TrainingBatches(folder, index, CONFIG)(epoch=0)).items():
        stored = make_waveform(int(uid, 16))
        if len(stored) > 1.2 * 16_000:
            assert 12_800 <= len(waveform) <= 19_200
            start = np.argmax(np.correlate(stored - stored.mean(), waveform))
            assert np.abs(waveform - normalise(stored[start : start + len(waveform)])).max() < 1e-5


def test_crops_and_augmentations_depend_on_the_epoch_and_are_repeatable(
    store: tuple[Folder, Index],
) -> None:
    folder, index = store
    batches = TrainingBatches(folder, index, CONFIG, augment=add_noise)
    first, again, later = (utterances(batches(epoch)) for epoch in (0, 0, 1))
    plain = utterances(TrainingBatches(folder, index, CONFIG)(0))
    for uid, waveform in first.items():
        assert np.array_equal(waveform, again[uid])
        assert not np.array_equal(waveform, plain[uid])
        assert uid not in later or not np.array_equal(waveform, later[uid])


def test_workers_make_the_same_batches_in_the_same_order(store: tuple[Folder, Index]) -> None:
    folder, index = store
    alone = list(TrainingBatches(folder, index, CONFIG, augment=add_noise)(0, first_batch=3))
    shared = list(TrainingBatches(folder, index, CONFIG, augment=add_noise, num_workers=2)(0, first_batch=3))
    assert len(alone) == len(shared) > 5
    for one, other in zip(alone, shared, strict=True):
        assert one.uid == other.uid
        assert torch.equal(one.waveform, other.waveform)
        assert torch.equal(one.num_samples, other.num_samples)


def test_every_augmentation_returns_the_same_samples_in_a_worker(
    store: tuple[Folder, Index], tmp_path: Path
) -> None:
    folder, index = store
    recordings = record(tmp_path / "recordings", [make_waveform(number) for number in range(3)])
    steps = read_steps(
        [
            {"name": name} | ({"from": "any"} if issubclass(kind, RecordedAugmentation) else {})
            for name, kind in AUGMENTATIONS.items()
        ]
    )
    everything = augmenter(steps, dict.fromkeys(sources_of(steps), recordings))
    alone = TrainingBatches(folder, index, CONFIG, augment=everything)(1, first_batch=11)
    shared = TrainingBatches(folder, index, CONFIG, augment=everything, num_workers=2)(1, first_batch=11)
    for one, other in zip(alone, shared, strict=True):
        assert one.uid == other.uid
        assert torch.equal(one.waveform, other.waveform)
        assert torch.isfinite(one.waveform).all()


def test_an_augmentation_is_told_the_label_of_the_utterance(store: tuple[Folder, Index]) -> None:
    folder, index = store
    quieter = augmenter(read_steps([{"name": "clipping", "labels": ["spoof"]}]))
    plain = utterances(TrainingBatches(folder, index, CONFIG)(0))
    changed = utterances(TrainingBatches(folder, index, CONFIG, augment=quieter)(0))
    for uid, waveform in changed.items():
        is_spoof = int(uid, 16) % 2 == 0
        assert np.array_equal(waveform, plain[uid]) == (not is_spoof)


def test_decoding_a_window_equals_slicing_the_whole_utterance() -> None:
    waveform = make_waveform(18)
    data = encode_flac(quantise(waveform))
    row = np.zeros(20_000, np.float32)
    for start, end in ((0, 10), (1, 4_097), (9_000, 25_000), (31_000, len(waveform))):
        assert np.array_equal(decode_flac(data, start=start, end=end), waveform[start:end])
        window = decode_flac(data, start=start, end=end, out=row)
        assert np.array_equal(window, waveform[start:end])
        assert window.base is row
    assert decode_flac(data, out=row[:100]).base is not row  # the buffer is too short


def test_a_header_with_an_absurd_length_is_rejected_before_memory_is_allocated() -> None:
    data = bytearray(encode_flac(quantise(make_waveform(3))))
    data[21] |= 0x0F  # the upper bits of the number of samples
    with pytest.raises(AudioError, match="too_long"):
        decode_flac(bytes(data))


def test_memory_is_not_reused_while_a_batch_is_held(store: tuple[Folder, Index]) -> None:
    folder, index = store
    for num_workers in (0, 1):
        held, expected = [], []
        for batch in TrainingBatches(folder, index, CONFIG, num_workers=num_workers)(0):
            row = batch.waveform[-1]  # a view is enough to hold the batch
            held.append(row)
            expected.append(row.clone())
        assert len(held) > 2 * MAX_HELD
        assert all(map(torch.equal, held, expected))


def test_memory_is_reused_once_a_batch_is_dropped(store: tuple[Folder, Index]) -> None:
    folder, index = store
    addresses = {batch.waveform.data_ptr() for batch in TrainingBatches(folder, index, CONFIG)(0)}
    assert len(addresses) == 2  # the loop holds one batch while the next one is filled


def test_workers_exit_when_the_iterator_is_dropped(store: tuple[Folder, Index]) -> None:
    folder, index = store
    already_running = set(children())
    batches = TrainingBatches(folder, index, CONFIG, num_workers=2)(0)
    first = next(batches)
    assert len(set(children()) - already_running) == 2
    before = first.waveform.clone()
    del batches
    assert set(children()) <= already_running
    assert torch.equal(first.waveform, before)


def children() -> list[str]:
    """List the process ids of the children of this process."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended since it was listed
            if int((process / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(process.name)
    return found


def test_workers_exit_when_their_rank_is_killed(store: tuple[Folder, Index], tmp_path: Path) -> None:
    folder, index = store
    index.save(tmp_path / "index")
    program = f"""
import os, signal
from pathlib import Path
from tests.data.loading.test_batches import CONFIG, TrainingBatches, Folder, children
from pipeline.data.store.index import map_index
index = map_index(Path({str(tmp_path / "index")!r}))
batches = TrainingBatches(Folder({folder.uri!r}), index, CONFIG, num_workers=2)(0)
next(batches)
print(*children(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    workers, _ = killed.communicate(timeout=240)  # returns once the last worker has exited
    assert killed.returncode == -signal.SIGKILL
    assert len(workers.split()) == 2


def test_the_failure_or_death_of_a_worker_is_raised_in_the_rank(store: tuple[Folder, Index]) -> None:
    folder, index = store
    for augment, message in ((fail, "ZeroDivisionError: division in an augmentation"), (die, "exit code 7")):
        with pytest.raises(RuntimeError, match=message):
            next(TrainingBatches(folder, index, CONFIG, num_workers=2, augment=augment)(0))


def test_an_item_is_converted_while_the_one_before_it_is_in_use() -> None:
    started = [threading.Event() for _ in range(5)]

    def convert(number: int) -> int:
        started[number].set()
        return 10 * number

    converted = _prefetch_one(iter(range(5)), convert)
    assert next(converted) == 0
    assert started[1].wait(timeout=60)
    assert list(converted) == [10, 20, 30, 40]


def test_ranks_share_an_epoch_and_resume_within_it(store: tuple[Folder, Index]) -> None:
    folder, index = store
    alone = [batch.uid for batch in TrainingBatches(folder, index, CONFIG)(0)]
    ranks = [TrainingBatches(folder, index, CONFIG, rank=rank, world=2) for rank in range(2)]
    steps = [[batch.uid for batch in rank(0)] for rank in ranks]
    assert [uids for step in zip(*steps, strict=True) for uids in step] == alone[: len(steps[0]) * 2]
    assert [batch.uid for batch in ranks[1](0, first_batch=4)] == steps[1][2:]
    assert (
        next(ranks[0](0, first_batch=5)).uid == alone[5]
    )  # after five batches that other numbers of ranks took


def test_loading_does_not_use_torchs_random_state(store: tuple[Folder, Index]) -> None:
    folder, index = store
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(TrainingBatches(folder, index, CONFIG)(0))
    assert torch.equal(before, torch.get_rng_state())


def test_evaluation_loads_every_utterance_once_and_uncropped(store: tuple[Folder, Index]) -> None:
    folder, index = store
    shares = [
        utterances(evaluation_batches(folder, index, max_seconds=3, rank=rank, world=3)) for rank in range(3)
    ]
    together = {uid: waveform for share in shares for uid, waveform in share.items()}
    assert len(together) == sum(map(len, shares)) == len(index)
    for uid, waveform in together.items():
        assert np.abs(waveform - normalise(make_waveform(int(uid, 16)))).max() < 1e-5


def test_evaluation_batches_are_bounded() -> None:
    _, index = write_store()
    for planned in plan_evaluation(index, 3.0):
        assert len(planned.rows) * planned.num_samples.max() <= 3 * 16_000
    assert len(plan_evaluation(index, 0.1)) == len(index)  # each utterance is longer than a batch


def test_batches_from_s3_equal_batches_from_a_folder(store: tuple[Folder, Index], bucket: str) -> None:
    folder, index = store
    remote = Folder(bucket)
    for name in index.shards:
        remote.commit(name, folder.read(name))
    for num_workers in (0, 2):
        local = TrainingBatches(folder, index, CONFIG)(0, first_batch=4)
        from_s3 = TrainingBatches(remote, index, CONFIG, num_workers=num_workers)(0, first_batch=4)
        for one, other in zip(local, from_s3, strict=True):
            assert one.uid == other.uid
            assert torch.equal(one.waveform, other.waveform)


class Bucket(http.server.BaseHTTPRequestHandler):
    """Serves byte ranges of a folder, but only once as many requests wait as one worker may send."""

    folder: ClassVar[Path]
    waiting: ClassVar[set[str]]
    most: ClassVar[int]
    is_open: ClassVar[threading.Event]
    lock: ClassVar[threading.Lock] = threading.Lock()

    def do_GET(self) -> None:
        byte_range = self.headers["Range"]
        with self.lock:
            self.waiting.add(byte_range + self.path)
            type(self).most = max(self.most, len(self.waiting))
        if self.most == MAX_REQUESTS:
            self.is_open.set()
        self.is_open.wait(timeout=50)  # the client waits for a minute
        self.is_open.set()  # after a timeout, serve the remaining requests at once
        with self.lock:
            self.waiting.discard(byte_range + self.path)
        begin, end = map(int, byte_range.removeprefix("bytes=").split("-"))
        data = (self.folder / self.path.removeprefix("/bucket/")).read_bytes()[begin : end + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Do not log."""


def test_the_s3_requests_of_a_batch_are_sent_concurrently(
    store: tuple[Folder, Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, index = store
    Bucket.folder, Bucket.waiting, Bucket.most, Bucket.is_open = Path(folder.uri), set(), 0, threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "x")
    try:
        batches = evaluation_batches(Folder("s3://bucket"), index, max_seconds=1000, num_workers=1)
        assert len(utterances(batches)) == len(index)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert Bucket.most == MAX_REQUESTS


def test_a_damaged_shard_is_an_error_that_names_shard_and_utterance(tmp_path: Path) -> None:
    tars, index = write_store(20)
    folder = Folder(str(tmp_path))
    name = index.shards[0]
    offset = int(index.offset[7])
    folder.commit(name, tars[name][:offset] + b"\0" * 64 + tars[name][offset + 64 :])
    with pytest.raises(InputError, match=f"{name}.*{7:016x}"):
        list(evaluation_batches(folder, index))
    folder.commit(name, tars[name][:offset])
    with pytest.raises(InputError, match="is truncated"):
        list(evaluation_batches(folder, index))
    folder.delete(name)
    with pytest.raises(InputError, match="is missing"):
        list(evaluation_batches(folder, index))


def test_a_shard_that_is_missing_on_s3_is_a_user_error(bucket: str) -> None:
    _, index = write_store(20)
    with pytest.raises(
        InputError, match=f"{index.shards[0]}: the snapshot lists this shard, but it is missing"
    ):
        list(evaluation_batches(Folder(bucket), index))


def test_a_user_error_in_a_worker_is_one_line(tmp_path: Path) -> None:
    _, index = write_store(20)
    with pytest.raises(InputError) as caught:
        list(evaluation_batches(Folder(str(tmp_path)), index, num_workers=1))
    assert "\n" not in str(caught.value)


def test_a_length_that_differs_from_the_index_is_an_error(store: tuple[Folder, Index]) -> None:
    folder, index = store
    seconds = index.seconds.copy()
    seconds[3] += 1 / 16_000
    with pytest.raises(InputError, match="length_mismatch"):
        list(evaluation_batches(folder, replace(index, seconds=seconds)))
