package api

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	v1 "orch/proto/v1"
)

// Kinds of errors. Every error that crosses the API is one of these, so that
// errors.Is(err, api.ErrNotFound) is true on both sides of the wire.
var (
	ErrNotFound        = errors.New("NotFound")
	ErrAlreadyExists   = errors.New("AlreadyExists")
	ErrConflict        = errors.New("Conflict")   // not at the expected resourceVersion or uid
	ErrInvalid         = errors.New("Invalid")    // fields are wrong; see StatusError.Causes
	ErrBadRequest      = errors.New("BadRequest") // the request itself makes no sense
	ErrForbidden       = errors.New("Forbidden")
	ErrUnauthorized    = errors.New("Unauthorized")
	ErrExpired         = errors.New("Expired") // the revision asked for has been compacted
	ErrTooLarge        = errors.New("RequestEntityTooLarge")
	ErrTooManyRequests = errors.New("TooManyRequests")
	ErrTimeout         = errors.New("Timeout")
	ErrUnavailable     = errors.New("ServiceUnavailable")
	ErrUnimplemented   = errors.New("MethodNotAllowed")
	ErrInternal        = errors.New("InternalError")
	ErrHeld            = errors.New("Held") // the controller that writes is paused
)

// codeOf is the one table between kinds of errors and gRPC codes. Where two
// kinds share a code, the details of the status tell them apart; the first is
// meant where there are no details.
var codeOf = []struct {
	kind error
	code codes.Code
}{
	{ErrNotFound, codes.NotFound},
	{ErrAlreadyExists, codes.AlreadyExists},
	{ErrConflict, codes.Aborted},
	{ErrBadRequest, codes.InvalidArgument},
	{ErrInvalid, codes.InvalidArgument},
	{ErrForbidden, codes.PermissionDenied},
	{ErrUnauthorized, codes.Unauthenticated},
	{ErrExpired, codes.OutOfRange},
	{ErrTooLarge, codes.ResourceExhausted}, // gRPC says it of a message over its limit
	{ErrTooManyRequests, codes.ResourceExhausted},
	{ErrTimeout, codes.DeadlineExceeded},
	{ErrUnavailable, codes.Unavailable},
	{ErrUnimplemented, codes.Unimplemented},
	{ErrInternal, codes.Internal},
	{ErrHeld, codes.FailedPrecondition},
}

// StatusError is an error of the API, with Kubernetes' words.
type StatusError struct {
	// Reason is one of the kinds above.
	Reason error
	// Message is the whole sentence for people.
	Message string
	// Kind and Name say which object; may be empty.
	Kind, Name string
	// Causes are the fields that are wrong, for ErrInvalid.
	Causes []*v1.FieldError
}

// Error returns the message.
func (e *StatusError) Error() string { return e.Message }

// Unwrap returns the kind, for errors.Is.
func (e *StatusError) Unwrap() error { return e.Reason }

// Errorf returns an error of the given kind that is about no single object.
func Errorf(kind error, format string, args ...any) error {
	return &StatusError{Reason: kind, Message: fmt.Sprintf(format, args...)}
}

// about returns an error about one object; the format's first two places are for
// its resource and name.
func about(k *Kind, name string, kind error, format string, more ...any) *StatusError {
	return &StatusError{Reason: kind, Kind: k.Name, Name: name, Message: fmt.Sprintf(format, append([]any{k.Resource(), name}, more...)...)}
}

// NotFound says that there is no such object: `pods "web" not found`.
func NotFound(k *Kind, name string) error {
	return about(k, name, ErrNotFound, "%s %q not found")
}

// IgnoreNotFound is err, or nil where that says that there is no such object.
func IgnoreNotFound(err error) error {
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// AlreadyExists says that the name is taken.
func AlreadyExists(k *Kind, name string) error {
	return about(k, name, ErrAlreadyExists, "%s %q already exists")
}

// Conflict says that the object has moved on since it was read.
func Conflict(k *Kind, name, why string) error {
	return about(k, name, ErrConflict, "Operation cannot be fulfilled on %s %q: %s", why)
}

// Forbidden says what the server will not do.
func Forbidden(k *Kind, name, why string) *StatusError {
	return about(k, name, ErrForbidden, "%s %q is forbidden: %s", why)
}

// namespaceTerminating is the cause that tells a namespace on its way out from
// other reasons to forbid something; Kubernetes' word.
const namespaceTerminating = "NamespaceTerminating"

// Terminating says that an object's namespace is going, and with it all that is
// in it.
func Terminating(k *Kind, name, namespace string) error {
	err := Forbidden(k, name, "unable to create new content in namespace "+namespace+" because it is being terminated")
	err.Causes = []*v1.FieldError{{
		Field: "metadata.namespace", Reason: namespaceTerminating, Message: "namespace " + namespace + " is being terminated",
	}}
	return err
}

// IsTerminating says whether an error is that of [Terminating].
func IsTerminating(err error) bool {
	var se *StatusError
	return errors.As(err, &se) && len(se.Causes) > 0 && se.Causes[0].GetReason() == namespaceTerminating
}

// Invalid says which fields of an object are wrong, in Kubernetes' sentence:
// `Deployment.apps "web" is invalid: spec.replicas: Invalid value: -1: must be
// greater than or equal to 0`. It returns nil where errs is empty.
func Invalid(k *Kind, name string, errs []*v1.FieldError) error {
	if len(errs) == 0 {
		return nil
	}
	kind := k.Name
	if k.Group != "" {
		kind += "." + k.Group
	}
	parts := make([]string, len(errs))
	for i, e := range errs {
		parts[i] = e.GetField() + ": " + e.GetMessage()
	}
	text := parts[0]
	if len(parts) > 1 {
		text = "[" + strings.Join(parts, ", ") + "]"
	}
	return &StatusError{
		Reason: ErrInvalid, Kind: k.Name, Name: name, Causes: errs,
		Message: fmt.Sprintf("%s %q is invalid: %s", kind, name, text),
	}
}

// ToStatus turns an error into what gRPC sends. An error that is of no kind is
// ErrInternal.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	var se *StatusError
	if !errors.As(err, &se) {
		if s, ok := status.FromError(err); ok {
			return s.Err()
		}
		se = &StatusError{Reason: ErrInternal}
		for _, row := range codeOf {
			if errors.Is(err, row.kind) {
				se.Reason = row.kind
				break
			}
		}
	}
	code := codes.Internal
	for _, row := range codeOf {
		if se.Reason == row.kind { //nolint:errorlint // the table holds the sentinels themselves
			code = row.code
			break
		}
	}
	s := status.New(code, err.Error())
	if d, e := s.WithDetails(&v1.StatusDetails{Reason: se.Reason.Error(), Kind: se.Kind, Name: se.Name, Causes: se.Causes}); e == nil {
		s = d
	}
	return s.Err()
}

// FromStatus turns what gRPC received back into a *StatusError. Errors that are
// no gRPC status come back as they are.
func FromStatus(err error) error {
	s, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	se := &StatusError{Reason: ErrInternal, Message: s.Message()}
	for _, row := range codeOf {
		if row.code == s.Code() {
			se.Reason = row.kind
			break
		}
	}
	for _, d := range s.Details() {
		d, ok := d.(*v1.StatusDetails)
		if !ok {
			continue
		}
		se.Kind, se.Name, se.Causes = d.GetKind(), d.GetName(), d.GetCauses()
		for _, row := range codeOf {
			if row.kind.Error() == d.GetReason() {
				se.Reason = row.kind
			}
		}
	}
	return se
}
