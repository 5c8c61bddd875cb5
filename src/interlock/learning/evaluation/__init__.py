"""Learning on public data: folders, splits, measures, baselines, the run and its report."""
