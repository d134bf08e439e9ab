package plugin

import (
	"encoding/json"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"

	"go.pcc.com/rewind/core/backup"
	"go.pcc.com/rewind/core/fault"
)

// Each method of the contract is a method of this gRPC service. The host sends one request and perhaps orders; the
// backend sends answers, the last of which holds a result or a fault.
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

// order is what a host says while a call runs.
type order struct {
	// Cancel: end soon, and answer. The end of the stream would cancel as well, but then nobody could hear when the
	// backend has put away what it had begun.
	Cancel bool `json:"cancel,omitempty"`

	// Release: what Present presented is not needed any more.
	Release bool `json:"release,omitempty"`
}

// answer is one message of a backend, with one of its fields set. A Store that leaves files out ends with both a result
// and a fault.
type answer struct {
	Progress  *backup.Progress  `json:"progress,omitempty"`
	Presented *backup.Presented `json:"presented,omitempty"`
	Listed    *backup.Stored    `json:"listed,omitempty"` // one backup of a List
	Result    *result           `json:"result,omitempty"`
	Fault     *fault.Error      `json:"fault,omitempty"`
}

func (a answer) last() bool { return a.Result != nil || a.Fault != nil }

// result is what a call returned, beside what was sent before.
type result struct {
	Description *backup.Description `json:"description,omitempty"`
	Stored      *backup.Stored      `json:"stored,omitempty"`
	Warnings    []string            `json:"warnings,omitempty"` // of Check
}

// codec is gRPC's name for how messages become bytes. gRPC keeps codecs in one table for the whole process, by the
// content-subtype that a call names; go-plugin's own services go on with protobuf.
type codec struct{}

const subtype = "json"

func init() { encoding.RegisterCodec(codec{}) }

func (codec) Name() string                    { return subtype }
func (codec) Marshal(v any) ([]byte, error)   { return json.Marshal(v) }
func (codec) Unmarshal(b []byte, v any) error { return json.Unmarshal(b, v) }
func streamOf(method string) grpc.StreamDesc {
	return grpc.StreamDesc{StreamName: method, ServerStreams: true, ClientStreams: true}
}
