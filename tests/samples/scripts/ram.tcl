# A RAM disk with all callbacks that nbdkit's tcl plugin knows, each able to fail.
set size 65536
set fail {}

proc config {key value} {
    global size fail
    switch $key {
        fail { lappend fail $value }
        size { set size $value }
        default { error "unknown parameter $key" }
    }
}

proc config_complete {} {
    global disk size
    set disk [binary format x$size]
}

proc maybe_fail {name} {
    if {$name in $::fail} {
        error "no room for $name"
    }
}

proc plugin_open {readonly} {
    maybe_fail open
    if {$readonly ni {0 1}} { error "no boolean" }
    return [list a handle]
}

proc plugin_close {h} { if {$h ne "a handle"} { error "another handle" } }

proc get_size {h} { return $::size }

proc can_write {h} { return true }

proc can_flush {h} { return yes }

proc can_trim {h} { return 1 }

proc is_rotational {h} { return on }

proc pread {h count offset} {
    maybe_fail pread
    set data [string range $::disk $offset [expr {$offset + $count - 1}]]
    if {"long" in $::fail} { append data more }
    return $data
}

proc put {data offset} {
    global disk
    set before [string range $disk 0 [expr {$offset - 1}]]
    set after [string range $disk [expr {$offset + [string length $data]}] end]
    set disk [binary format a*a*a* $before $data $after]
}

proc pwrite {h buf offset} {
    maybe_fail pwrite
    if {"kill" in $::fail} { exec kill -9 [pid] }
    put $buf $offset
}

proc plugin_flush {h} { maybe_fail flush }

proc trim {h count offset} {
    maybe_fail trim
    put [binary format x$count] $offset
}

proc zero {h count offset may_trim} {
    maybe_fail zero
    if {$may_trim ni {0 1}} { error "no boolean" }
    put [binary format x$count] $offset
}
