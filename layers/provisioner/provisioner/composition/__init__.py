"""One module a Lambda function: puts its settings, clients and stages together, and no others."""
