# Prints of the output of `go test -v` and of the checks what belongs to a failure:
# what each test that failed has printed, packages that do not build, data races,
# and the lines with which checks fail.

# A line belongs to the test that was named last.
/^=== (RUN|CONT|NAME|PAUSE)/ { test = $3; next }
/^ *--- (PASS|SKIP): / { test = ""; next }
/^ *--- FAIL: / {
  name = $0
  sub(/^ *--- FAIL: /, "", name)
  sub(/ \([0-9.]+s\)$/, "", name)
  # Without -v what a test has printed follows; with it, it has gone before.
  print $0
  printf "%s", said[name]
  delete said[name]
  test = ""
  shown = 1
  next
}
/^ok / || /^PASS$/ || /^\?  / { delete said; test = ""; shown = 0; next }
/^(FAIL|panic:|fatal error:|# |make: |WARNING: DATA RACE|.*: error: )/ { print; shown = 1; next }
test != "" { said[test] = said[test] $0 "\n"; next }
shown { print }
