package devenv

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// kafkaVersion is the release of Apache Kafka that is run.
const kafkaVersion = "4.3.1"

// kafkaPOM asks Maven for the broker, and for a logger that needs no configuration file.
const kafkaPOM = `<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>outbox-cdc</groupId>
  <artifactId>kafka</artifactId>
  <version>` + kafkaVersion + `</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>` + kafkaVersion + `</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId>
      <artifactId>slf4j-simple</artifactId>
      <version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
`

// dependencyPlugin is named in full: Maven has one of its own choice otherwise.
const dependencyPlugin = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"

// kafkaHome returns the directory with Kafka's jars, downloading them (44 MB) when needed.
func kafkaHome(ctx context.Context, java java) (string, error) {
	dir, err := cached(ctx, "kafka-"+kafkaVersion+"-"+digest(kafkaPOM), func(dir string) error {
		return fetchKafka(ctx, java.maven, dir)
	})
	if err != nil {
		return "", fmt.Errorf("download Apache Kafka: %w", err)
	}
	return dir, nil
}

// fetchKafka has Maven copy the jars into dir. It downloads what the user's repository,
// ~/.m2 or what settings.xml says, does not hold yet.
func fetchKafka(ctx context.Context, maven, dir string) (err error) {
	box, err := newToolbox("maven")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, box.close()) }()
	pom := box.path("pom.xml")
	if err := os.WriteFile(pom, []byte(kafkaPOM), 0o600); err != nil {
		return err
	}
	return box.run(ctx, maven, "-q", "-B",
		"--strict-checksums", // a damaged download is an error, not a warning
		"-f", pom, dependencyPlugin+":copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory="+dir)
}
