"""Time as a number of periods, and the seasons of a period.

The first gaps between rows of one series give the period: the gap that is most frequent, the shortest of equals. Gaps
of 28 to 31 days are months, of 89 to 92 days quarters and of 365 or 366 days years, which are counted by the calendar.
"""

from __future__ import annotations

from everlearn.families.kernel_parts import outlined
from everlearn.records import Ints

GAPS = 8  # that decide
PERIOD, MONTHS, FIRST, SECOND, SMOOTHED, KNOWN, LEARNED, CLOCK = range(8)
"""Places in `clock`: minutes of a period, or months; two seasons, and that of smoothing; gaps known; rows learned."""

DAY, WEEK, MONTH = 1_440, 10_080, 28 * 1_440
LONGEST = 512  # season that smoothing follows
YEAR_DAYS = 365


@outlined
def months(minute: int) -> int:
    """Return the months since year 0 of a minute since 1970 (Hinnant, "chrono-compatible date algorithms")."""
    days = minute // DAY + 719_468
    era = days // 146_097
    of_era = days - era * 146_097
    year = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    shifted = (5 * of_year + 2) // 153  # months since March
    return (year + era * 400) * 12 + shifted + 2


@outlined
def index(minute: int, clock: Ints) -> int:
    """Return the number of the period of a minute."""
    if clock[MONTHS]:
        return int(months(minute) // clock[MONTHS])
    return int((minute + clock[PERIOD] // 2) // clock[PERIOD])


@outlined
def choose(clock: Ints, season: int, history: int) -> None:
    """Choose the seasons of a period: `season`, or day and week, week, year; 1 where there is none."""
    first, second = 1, 1
    period = clock[PERIOD]
    if clock[MONTHS]:
        first = max(12 // clock[MONTHS], 1)
    elif period < DAY:
        first = DAY // period if DAY % period == 0 else 1
        second = WEEK // period if WEEK % period == 0 else 1
    elif period == DAY:
        first = 7
    elif period == WEEK:
        first = 52
    if season:
        first, second = season, 7 * season if period < DAY and season == DAY // period else 1
    if 2 * first > history:
        first = 1
    if second <= first or 2 * second > history:
        second = first
    clock[FIRST], clock[SECOND] = first, second
    clock[SMOOTHED] = second if second <= LONGEST else first if first <= LONGEST else 1


@outlined
def note_gap(gap: int, clock: Ints, gaps: Ints) -> bool:
    """Note a gap in minutes; return True once the period is known."""
    gaps[clock[KNOWN]] = gap
    clock[KNOWN] += 1
    if clock[KNOWN] < GAPS:
        return False
    best, most = gaps[0], 0
    for i in range(GAPS):
        count = 0
        for j in range(GAPS):
            near = gaps[j] == gaps[i] or (min(gaps[i], gaps[j]) >= MONTH and abs(gaps[i] - gaps[j]) <= 3 * DAY)
            count += near
        if count > most or (count == most and gaps[i] < best):
            best, most = gaps[i], count
    fix(best, clock)
    return True


@outlined
def fix(period: int, clock: Ints) -> None:
    """Set the period in minutes, or in months where it is about as long."""
    clock[PERIOD], clock[MONTHS], clock[KNOWN] = period, 0, GAPS
    days = period // DAY
    if 28 <= days <= 31:
        clock[MONTHS] = 1
    elif 89 <= days <= 92:
        clock[MONTHS] = 3
    elif 365 <= days <= 366:
        clock[MONTHS] = 12
