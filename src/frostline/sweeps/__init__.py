"""A sweep: from a composed config to trials, a record and an answer."""
