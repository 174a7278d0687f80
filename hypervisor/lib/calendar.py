"""Days of the Gregorian calendar, whose 400 years have 146097 days, and Unix time."""
DAY_SECONDS = 86400


def day_number(year, month, day):
    """Days since 0000-03-01. Any int will do: months and days beyond their ends run on."""
    month -= 3
    if month < 0:
        month += 12
        year -= 1
    return 365 * year + year // 4 - year // 100 + year // 400 + (153 * month + 2) // 5 + day - 1


UNIX_DAY = day_number(1970, 1, 1)


def unix_seconds(year, month, day, second):
    """second: of the day."""
    return (day_number(year, month, day) - UNIX_DAY) * DAY_SECONDS + second
