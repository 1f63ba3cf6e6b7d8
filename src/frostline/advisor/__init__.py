"""A sweep's question put to the decision, which knows numbers alone.

`question` reads it from the config, `advisor` answers it from the trials, `rows` says what the held-out rows know of a
metric.
"""

from frostline.advisor.advisor import Advisor
from frostline.advisor.fitted import Fitted
from frostline.advisor.importance import TOGETHER, importances
from frostline.advisor.question import NOTHING_FROZEN, Question, is_numeric
from frostline.advisor.rows import is_mean_over_rows, race_rows, row_vector, rows_to_settle

__all__ = [
    "NOTHING_FROZEN",
    "TOGETHER",
    "Advisor",
    "Fitted",
    "Question",
    "importances",
    "is_mean_over_rows",
    "is_numeric",
    "race_rows",
    "row_vector",
    "rows_to_settle",
]
