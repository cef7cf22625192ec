"""The target store: teachers' outputs for whole splits, kept in Parquet."""

from kd_ray.teachers.store.files import StoreError
from kd_ray.teachers.store.index import Shard, StoreIndex, TopKGap
from kd_ray.teachers.store.rows import StoredRow, estimate_bytes, prefix_digest, rows_of
from kd_ray.teachers.store.target_store import StoredBatch, TargetStore

__all__ = [
    "Shard",
    "StoreError",
    "StoreIndex",
    "StoredBatch",
    "StoredRow",
    "TargetStore",
    "TopKGap",
    "estimate_bytes",
    "prefix_digest",
    "rows_of",
]
