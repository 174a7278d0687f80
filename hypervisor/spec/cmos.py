"""The PC's real-time clock and its battery-backed memory: an MC146818 at ports 0x70 (index) and 0x71 (data).

Source: Motorola MC146818 data sheet, "Time, Calendar, and Alarm Locations", "Registers"; the century is where PCs have it.
"""
PORT = 0x70
SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM, WEEKDAY, DAY, MONTH, YEAR, A, B, C, D = range(14)
CENTURY = 0x32
A_UPDATING = 0x80               # a new second is being written
B_BINARY, B_24 = 0x04, 0x02     # else BCD, else the 12-hour format
PM = 0x80                       # of the hours, in the 12-hour format
