package sink

import (
	"github.com/IBM/sarama"
	"github.com/xdg-go/scram"
)

// scramClient is RFC 5802's conversation for sarama.
type scramClient struct {
	hash         scram.HashGeneratorFcn
	conversation *scram.ClientConversation
}

// newSCRAM returns what sarama makes a client of for each connection.
func newSCRAM(mechanism string) func() sarama.SCRAMClient {
	hash := scram.SHA256
	if mechanism == sarama.SASLTypeSCRAMSHA512 {
		hash = scram.SHA512
	}
	return func() sarama.SCRAMClient { return &scramClient{hash: hash} }
}

// Begin starts a conversation.
func (s *scramClient) Begin(user, password, authzID string) error {
	client, err := s.hash.NewClient(user, password, authzID)
	if err != nil {
		return err
	}
	s.conversation = client.NewConversation()
	return nil
}

// Step answers a challenge.
func (s *scramClient) Step(challenge string) (string, error) { return s.conversation.Step(challenge) }

// Done tells whether the conversation is over.
func (s *scramClient) Done() bool { return s.conversation.Done() }
