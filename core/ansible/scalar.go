package ansible

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
)

var durationType = reflect.TypeFor[time.Duration]()

// scalar converts raw to the simple type t. The errors say what is expected, and do not quote raw, which may be a
// secret.
func scalar(t reflect.Type, raw any) (any, error) {
	switch raw.(type) {
	case []any, map[string]any:
		return nil, errors.New("must be one value, not " + kindOf(raw))
	}
	if t == durationType {
		return parseDuration(raw)
	}
	switch t.Kind() {
	case reflect.String:
		return parseText(raw)
	case reflect.Bool:
		return parseBool(raw)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return parseInt(raw, t.Bits())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return parseUint(raw, t.Bits())
	case reflect.Float32, reflect.Float64:
		return parseFloat(raw, t.Bits())
	}
	return nil, fmt.Errorf("arguments of type %v cannot be read", t)
}

// parseText also accepts a number, as it was written. It refuses a bool, because nobody knows how that was written:
// YAML makes the same value of yes, on and True.
func parseText(raw any) (string, error) {
	switch v := raw.(type) {
	case string:
		return v, nil
	case json.Number:
		return v.String(), nil
	}
	return "", errors.New("must be text, not yes or no: quote it in YAML")
}

// parseBool accepts the same words as Ansible.
func parseBool(raw any) (bool, error) {
	if b, ok := raw.(bool); ok {
		return b, nil
	}
	switch strings.ToLower(strings.TrimSpace(fmt.Sprint(raw))) {
	case "yes", "y", "on", "true", "t", "1", "1.0":
		return true, nil
	case "no", "n", "off", "false", "f", "0", "0.0":
		return false, nil
	}
	return false, errors.New("must be true or false")
}

// wholeNumberText returns the text of a whole number, for strconv.
func wholeNumberText(raw any) (string, error) {
	s := strings.TrimSpace(fmt.Sprint(raw))
	if _, isBool := raw.(bool); isBool {
		return "", errors.New("must be a whole number, not true or false")
	}
	unsigned := strings.TrimLeft(s, "+-")
	if len(unsigned) > 1 && unsigned[0] == '0' && strings.Trim(unsigned, "0123456789") == "" {
		// YAML makes 420 of 0644, while people read 644.
		return "", errors.New("must not begin with 0, which could mean an octal number")
	}
	return s, nil
}

func parseInt(raw any, bits int) (int64, error) {
	s, err := wholeNumberText(raw)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(s, 10, bits)
	if errors.Is(err, strconv.ErrRange) {
		return 0, errors.New("is out of range")
	}
	if err != nil {
		return 0, errors.New("must be a whole number")
	}
	return n, nil
}

func parseUint(raw any, bits int) (uint64, error) {
	s, err := wholeNumberText(raw)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(s, "+"), 10, bits)
	if errors.Is(err, strconv.ErrRange) {
		return 0, errors.New("is out of range")
	}
	if err != nil {
		return 0, errors.New("must be a whole number, not below 0")
	}
	return n, nil
}

func parseFloat(raw any, bits int) (float64, error) {
	if _, isBool := raw.(bool); isBool {
		return 0, errors.New("must be a number, not true or false")
	}
	f, err := strconv.ParseFloat(strings.TrimSpace(fmt.Sprint(raw)), bits)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		return 0, errors.New("must be a number")
	}
	return f, nil
}

// parseDuration accepts a whole number of seconds, or a text such as 90s or 1h30m.
func parseDuration(raw any) (time.Duration, error) {
	d, err := time.ParseDuration(strings.TrimSpace(fmt.Sprint(raw)))
	if n, notWhole := parseInt(raw, 64); notWhole == nil {
		if n > int64(math.MaxInt64/time.Second) {
			return 0, errors.New("is out of range")
		}
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil {
		return 0, errors.New("must be whole seconds, or a time such as 90s or 1h30m")
	}
	if d < 0 {
		return 0, errors.New("must not be below 0")
	}
	return d, nil
}

// kindOf says what kind of value raw is, for messages.
func kindOf(raw any) string {
	switch raw.(type) {
	case nil:
		return "nothing"
	case []any:
		return "a list"
	case map[string]any:
		return "a mapping"
	case bool:
		return "true or false"
	case json.Number:
		return "a number"
	}
	return "text"
}
