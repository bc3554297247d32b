# A RAM disk for nbdkit's tcl plugin, as short as it can be: what is measured is the plugin.
# Changing a part of a string copies all of it in Tcl, so an array has one for each page of 4 KiB.
set zeroes [binary format x4096]

proc config {key value} {
    if {$key eq "size"} { set ::size $value }
}

proc plugin_open {readonly} { return 1 }

proc get_size {h} { return $::size }

proc pread {h count offset} {
    global pages zeroes
    set data {}
    for {set at $offset} {$at < $offset + $count} {incr at 4096} {
        if {[info exists pages($at)]} { append data $pages($at) } { append data $zeroes }
    }
    return $data
}

proc pwrite {h buf offset} {
    global pages
    for {set i 0} {$i < [string length $buf]} {incr i 4096} {
        set pages([expr {$offset + $i}]) [string range $buf $i [expr {$i + 4095}]]
    }
}
