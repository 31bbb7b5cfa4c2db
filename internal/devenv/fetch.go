package devenv

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"time"
)

// mavenCentral is the only place that anything is downloaded from.
const mavenCentral = ""

// download gets an artifact and compares it with its SHA-256 in hexadecimal.
func download(ctx context.Context, artifact, sum string) ([]byte, error) {
	data, err := get(ctx, mavenCentral+artifact)
	if err != nil {
		return nil, err
	}
	if got := sha256.Sum256(data); hex.EncodeToString(got[:]) != sum {
		return nil, fmt.Errorf("%s: sha256 is %x, want %s", artifact, got, sum)
	}
	return data, nil
}

// get gets url, trying a few times unless the server says that it has no such thing.
func get(ctx context.Context, url string) ([]byte, error) {
	var data []byte
	tries := 0
	err := poll(ctx, 2*time.Second, func() (bool, error) {
		var final bool
		var err error
		data, final, err = getOnce(ctx, url)
		tries++
		if err != nil && !final && tries < 3 {
			return false, nil
		}
		return err == nil, err
	})
	return data, err
}

func getOnce(ctx context.Context, url string) (data []byte, final bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, true, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, resp.StatusCode < 500, fmt.Errorf("%s: %s", url, resp.Status)
	}
	data, err = io.ReadAll(resp.Body)
	return data, false, err
}
