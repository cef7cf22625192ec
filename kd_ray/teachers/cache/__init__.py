"""The target cache: what teachers said, kept by content, so that nobody is asked twice."""

from kd_ray.teachers.cache.assemble import (
    Found,
    fill_fused,
    fill_partial,
    find,
    needed,
    take_request,
)
from kd_ray.teachers.cache.bounded import CacheStatistics, Lookups
from kd_ray.teachers.cache.estimate import CacheEstimate, LevelEstimate, estimate_cache
from kd_ray.teachers.cache.fused import FusedCache, fusion_digest, group_of, looks_at_batches
from kd_ray.teachers.cache.fused_rows import FusedRow, cut_fused, lay_fused
from kd_ray.teachers.cache.keys import row_keys
from kd_ray.teachers.cache.memory import OutputCache
from kd_ray.teachers.cache.output_rows import Row, ScoredRow, WrittenRow, cut, lay
from kd_ray.teachers.cache.partial_rows import PartialRow, cut_partial, lay_partial
from kd_ray.teachers.cache.store_level import (
    StoreLevel,
    data_digest,
    manifest_digest,
    open_levels,
)

__all__ = [
    "CacheEstimate",
    "CacheStatistics",
    "Found",
    "FusedCache",
    "FusedRow",
    "LevelEstimate",
    "Lookups",
    "OutputCache",
    "PartialRow",
    "Row",
    "ScoredRow",
    "StoreLevel",
    "WrittenRow",
    "cut",
    "cut_fused",
    "cut_partial",
    "data_digest",
    "estimate_cache",
    "fill_fused",
    "fill_partial",
    "find",
    "fusion_digest",
    "group_of",
    "lay",
    "lay_fused",
    "lay_partial",
    "looks_at_batches",
    "manifest_digest",
    "needed",
    "open_levels",
    "row_keys",
    "take_request",
]
