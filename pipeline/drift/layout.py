"""The files of a DRIFT folder; no other module spells their names.

DRIFT/                      written by `bonafide drift --new SCORES`
  drift.json                verdict, settings, warnings, all distances with p, groups, identities
  drift.parquet             the same distances, one row per value
  drift.html                tables and charts in one file without external resources
  config.toml               settings of the run
"""

DRIFT_JSON = "drift.json"
DRIFT_TABLE = "drift.parquet"
DRIFT_PAGE = "drift.html"
CONFIG = "config.toml"
