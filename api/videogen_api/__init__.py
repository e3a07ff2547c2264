"""The contract between operator, runner and user: values, names, keys and errors; pydantic and stdlib only.

Read `naming`, `spec`, `status` and `resource` for what a user writes and sees; `video`, `plan` and `keys` for what the
operator and the runner agree on; `report` and `errors` for how a process says what it did.
"""
