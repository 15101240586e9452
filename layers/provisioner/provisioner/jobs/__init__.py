"""A generic job system: registry, queue, dispatch, store, stage runs. It knows no job type."""
