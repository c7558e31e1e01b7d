"""The steps of a run, strung together by the commands."""
