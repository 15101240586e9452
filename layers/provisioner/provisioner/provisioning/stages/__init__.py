"""One module a stage, named like what it ensures. A stage knows nothing of AWS Lambda."""
