"""The students' wing: one process that trains a model, whatever its teachers and companions."""
