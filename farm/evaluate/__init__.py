"""From judgements to win rates with intervals, raw and length-controlled."""
