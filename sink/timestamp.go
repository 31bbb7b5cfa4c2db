package sink

import "time"

// appendTime converts the text of a timestamptz or timestamp column to RFC
// 3339 in UTC. The session's DateStyle is ISO and its TimeZone UTC, so that it
// looks like 2026-11-23 17:47:26.298695+00; a timestamp has no offset and is
// taken as UTC, and any other offset is converted. What has no RFC 3339 form
// is reported with false: infinity, years before 1 and after 9999, a text that
// is no timestamp.
//
// https://www.postgresql.org/docs/current/datatype-datetime.html#DATATYPE-DATETIME-OUTPUT
func appendTime(dst, text []byte) ([]byte, bool) {
	// yyyy-mm-dd hh:mm:ss
	const seconds = 19
	if len(text) < seconds || text[4] != '-' || text[7] != '-' || text[10] != ' ' && text[10] != 'T' ||
		text[13] != ':' || text[16] != ':' {
		return dst, false
	}
	year, ok1 := digits(text[0:4])
	month, ok2 := digits(text[5:7])
	day, ok3 := digits(text[8:10])
	hour, ok4 := digits(text[11:13])
	minute, ok5 := digits(text[14:16])
	second, ok6 := digits(text[17:19])
	if !(ok1 && ok2 && ok3 && ok4 && ok5 && ok6) || hour > 23 || minute > 59 || second > 59 || year == 0 {
		return dst, false
	}
	t := time.Date(year, time.Month(month), day, hour, minute, second, 0, time.UTC)
	if t.Month() != time.Month(month) || t.Day() != day {
		return dst, false // the 30th of February, the 13th month
	}
	end := seconds
	if end < len(text) && text[end] == '.' {
		for end++; end < len(text) && '0' <= text[end] && text[end] <= '9'; end++ {
		}
		if n := end - seconds - 1; n == 0 || n > 9 {
			return dst, false
		}
	}
	offset, ok := utcOffset(text[end:])
	if !ok {
		return dst, false
	}
	if t = t.Add(-offset); t.Year() < 1 || t.Year() > 9999 {
		return dst, false
	}
	dst = t.AppendFormat(dst, "2006-01-02T15:04:05")
	dst = append(dst, text[seconds:end]...) // no offset has a fraction of a second
	return append(dst, 'Z'), true
}

// utcOffset reads what follows the seconds: nothing, Z, or ±hh[[:]mm[:ss]].
func utcOffset(text []byte) (time.Duration, bool) {
	if len(text) == 0 || len(text) == 1 && text[0] == 'Z' {
		return 0, true
	}
	west := text[0] == '-'
	if !west && text[0] != '+' {
		return 0, false
	}
	var sum time.Duration
	rest := text[1:]
	for _, unit := range []time.Duration{time.Hour, time.Minute, time.Second} {
		if len(rest) == 0 {
			break
		}
		if unit != time.Hour && rest[0] == ':' {
			rest = rest[1:]
		}
		if len(rest) < 2 {
			return 0, false
		}
		n, ok := digits(rest[:2])
		if !ok || n > 59 {
			return 0, false
		}
		sum += time.Duration(n) * unit
		rest = rest[2:]
	}
	if west {
		sum = -sum
	}
	return sum, len(rest) == 0 && len(text) > 1
}

// digits reads a number that consists of decimal digits only.
func digits(text []byte) (int, bool) {
	n := 0
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}
