"""The files of a TRACE folder; no other module spells their names.

TRACE/                      written by `bonafide trace`
  trace.json                settings, warnings, all metrics, the layers that were tried, identities
  trace.parquet             one row per new utterance: the system that it resembles, and whether it is a known one
  trials.parquet            one row per trial; only with trials
  trace.html                tables and charts in one file without external resources
  config.toml               settings of the run
"""

TRACE_JSON = "trace.json"
TRACE_TABLE = "trace.parquet"
TRIALS_TABLE = "trials.parquet"
TRACE_PAGE = "trace.html"
CONFIG = "config.toml"
