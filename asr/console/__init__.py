"""The shell side that all programs share: exit statuses, messages, input arguments and the names of outputs."""
