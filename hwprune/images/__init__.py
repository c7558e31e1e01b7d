"""Where images come from: folders, shards, data sets of Hugging Face."""
