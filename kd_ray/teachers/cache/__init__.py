"""The target cache: what teachers said, kept by content, so that nobody is asked twice."""

from kd_ray.teachers.cache.assemble import Found, fill_fused, find, needed, take_request
from kd_ray.teachers.cache.bounded import CacheStatistics, Lookups
from kd_ray.teachers.cache.estimate import CacheEstimate, LevelEstimate, estimate_cache
from kd_ray.teachers.cache.fused import FusedCache, fusion_digest, looks_at_batches
from kd_ray.teachers.cache.fused_rows import FusedRow, cut_fused, lay_fused
from kd_ray.teachers.cache.keys import row_keys
from kd_ray.teachers.cache.memory import OutputCache
from kd_ray.teachers.cache.output_rows import Row, ScoredRow, WrittenRow, cut, lay
from kd_ray.teachers.cache.store_level import StoreLevel, data_digest

__all__ = [
    "CacheEstimate",
    "CacheStatistics",
    "Found",
    "FusedCache",
    "FusedRow",
    "LevelEstimate",
    "Lookups",
    "OutputCache",
    "Row",
    "ScoredRow",
    "StoreLevel",
    "WrittenRow",
    "cut",
    "cut_fused",
    "data_digest",
    "estimate_cache",
    "fill_fused",
    "find",
    "fusion_digest",
    "lay",
    "lay_fused",
    "looks_at_batches",
    "needed",
    "row_keys",
    "take_request",
]
