"""Local folders and S3 buckets behind one small interface; readers never see a partly written file.

    store = Folder("s3://bucket/store")
    store.commit("recipe.toml", data)
    names = [info.name for info in store.find("index")]

The only package that imports fsspec (and, through it, s3fs). S3 credentials and endpoints come from the usual AWS
chain: environment, profile, instance role.
"""

from pipeline.storage.file_info import FileInfo, FileProblem
from pipeline.storage.folder import Folder
from pipeline.storage.local_writing import STAGED_SUFFIX, is_staged
from pipeline.storage.s3 import PART_BYTES
from pipeline.storage.temporary import (
    TemporaryFile,
    private_folder,
    temporary_errors,
    temporary_folder,
    temporary_root,
    user_folder,
)
from pipeline.storage.user_errors import WRITE_REMEDIES, local_errors

__all__ = [
    "PART_BYTES",
    "STAGED_SUFFIX",
    "WRITE_REMEDIES",
    "FileInfo",
    "FileProblem",
    "Folder",
    "TemporaryFile",
    "is_staged",
    "local_errors",
    "private_folder",
    "temporary_errors",
    "temporary_folder",
    "temporary_root",
    "user_folder",
]
