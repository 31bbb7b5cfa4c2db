package main

import "testing"

func TestParseSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Size{
		"0": 0, "1": 1, "65536": 65536, "512B": 512, "64KB": 64_000, "64KiB": 65536, "16MiB": 16 << 20, "16 MiB": 16 << 20,
		"16mib": 16 << 20, "2MB": 2_000_000, "1GiB": 1 << 30, "3GB": 3_000_000_000, " 5KiB ": 5 << 10,
	} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1.5MiB", "16M", "16 apples", "9223372036854775807KiB", "1e3"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("parseSize(%q) = %d, want an error", text, got)
		}
	}
}

func TestSizeString(t *testing.T) {
	t.Parallel()
	for size, want := range map[Size]string{0: "0", 1000: "1000", 1 << 10: "1KiB", 16 << 20: "16MiB", 3 << 30: "3GiB", 1<<20 + 1: "1048577"} {
		if got := size.String(); got != want {
			t.Errorf("%d prints as %s, want %s", int64(size), got, want)
		}
		if back, err := parseSize(size.String()); err != nil || back != size {
			t.Errorf("%s reads back as %d, %v", size, int64(back), err)
		}
	}
}

func TestEditDistance(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"slot", "slot", 0}, {"slot", "slto", 1}, {"slot", "slots", 1},
		{"slot", "plot", 1}, {"kitten", "sitting", 3}, {"ca", "abc", 3},
	} {
		if got := editDistance(tc.a, tc.b); got != tc.want {
			t.Errorf("editDistance(%q, %q) = %d, want %d", tc.a, tc.b, got, tc.want)
		}
	}
}
