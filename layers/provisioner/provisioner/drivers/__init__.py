"""One module a technology. A driver knows nothing of jobs or stages."""
