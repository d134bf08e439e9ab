package backup

import (
	"testing"

	"go.pcc.com/rewind/core/ansible/ansibletest"
)

func TestMain(m *testing.M) { ansibletest.Main(m, module()) }

func TestScreen(t *testing.T) { ansibletest.Play(t, "testdata/answers") }
