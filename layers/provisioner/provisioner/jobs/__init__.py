"""A generic job system. It knows no job type, and of a payload only the field project_id.

What happens to a job, and the modules in which it does:

- What a job is: `definition` says what a type is, `models` what is known of a job and which status
  may follow which, `retries` how often what is repeated, `stage` what a stage is handed and
  returns. `registry` has the handlers, by job type.
- A message comes: `messages` reads it, `dispatch` stores its job and starts the `execution`, unless
  `admission` control holds it back; `client` enqueues jobs and asks for them from any program.
- A stage runs: `stage_run` runs one attempt. `stage_store` writes how it starts and ends, and with
  the first start of a job takes one of the `slots`.
- The job ends: its last stage completes it, or `failure` records why it failed.
- Nobody says how it ended: the `reconciler` finds that, and ends it. A `sweep` looks at every job.
- What did not work waits for people: `redrive`.
- Others hear of it: `events` publishes each entry of the history.
- It is stored: `store` reads and writes jobs; `records` is the form of an item, and writes what
  belongs together in one transaction.
- It can run without an execution, in someone's process: `in_process`.
"""
