package plugin

import (
	"encoding/json"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

// serviceName is the gRPC service that has one method for each method of the contract. In a call the host sends one
// request and then perhaps orders. The backend sends answers; the last one has a result or a fault.
const serviceName = "rewind.Backend"

const (
	describe = "Describe"
	store    = "Store"
	list     = "List"
	check    = "Check"
	present  = "Present"
	forget   = "Forget"
	settle   = "Settle"
)

// request holds the arguments of a call.
type request struct {
	Config backup.Config `json:"config"`
	Tree   backup.Tree   `json:"tree,omitzero"`
	Host   string        `json:"host,omitempty"`
	ID     string        `json:"id,omitempty"`
}

// order is a message of the host while a call runs.
type order struct {
	// Cancel asks the backend to end the call soon and to send its last answer. The host could also close the stream, but
	// then it would not learn when the backend has cleaned up what it had begun.
	Cancel bool `json:"cancel,omitempty"`

	// Release says that the host no longer needs what Present presented.
	Release bool `json:"release,omitempty"`
}

// answer is one message of a backend. One of its fields is set; only the last answer of a Store that could not store
// all files has both a result and a fault.
type answer struct {
	Progress  *backup.Progress  `json:"progress,omitempty"`
	Presented *backup.Presented `json:"presented,omitempty"`
	Listed    *backup.Stored    `json:"listed,omitempty"` // one backup of a List
	Result    *result           `json:"result,omitempty"`
	Fault     *fault.Error      `json:"fault,omitempty"`
}

func (a answer) last() bool { return a.Result != nil || a.Fault != nil }

// result is what a call returned, without what was sent in earlier answers.
type result struct {
	Description *backup.Description `json:"description,omitempty"`
	Stored      *backup.Stored      `json:"stored,omitempty"`
	Warnings    []string            `json:"warnings,omitempty"` // of Check
}

// codec encodes messages as JSON. gRPC has one table of codecs for the whole process, and finds the codec by the
// content-subtype of a call. So go-plugin's own services still use protobuf.
type codec struct{}

const subtype = "json"

func init() { encoding.RegisterCodec(codec{}) }

func (codec) Name() string                    { return subtype }
func (codec) Marshal(v any) ([]byte, error)   { return json.Marshal(v) }
func (codec) Unmarshal(b []byte, v any) error { return json.Unmarshal(b, v) }

// streamDesc describes a method to gRPC: both sides send any number of messages.
func streamDesc(method string) grpc.StreamDesc {
	return grpc.StreamDesc{StreamName: method, ServerStreams: true, ClientStreams: true}
}
