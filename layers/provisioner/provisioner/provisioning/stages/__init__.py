"""The code of the stages: a module a thing that a project has, and how jobs begin and end.

A stage's function is named like what it ensures. It knows nothing of AWS Lambda.
"""
