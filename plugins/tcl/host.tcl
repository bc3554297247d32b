# The Tcl side of the tcl plugin: it calls the script's callbacks; see host.py.

namespace eval ::nbdkit {
    variable FLAG_MAY_TRIM 1 FLAG_FUA 2 FLAG_REQ_ONE 4 FLAG_FAST_ZERO 8
    variable FUA_NONE 0 FUA_EMULATE 1 FUA_NATIVE 2
    variable CACHE_NONE 0 CACHE_EMULATE 1 CACHE_NATIVE 2
    variable EXTENT_HOLE 1 EXTENT_ZERO 2
    variable THREAD_MODEL_SERIALIZE_CONNECTIONS 0 THREAD_MODEL_SERIALIZE_ALL_REQUESTS 1
    variable THREAD_MODEL_SERIALIZE_REQUESTS 2 THREAD_MODEL_PARALLEL 3

    # Set the error for when the callback fails: a number, or a name such as ENOSPC.
    proc set_error {error} {
        set errno [::nbdforkhost::errno_of $error]
        if {!$errno} { error "not an errno: $error" }
        set ::nbdforkhost::errno $errno
        return
    }

    proc debug {text} {
        if {$::nbdforkhost::verbose} { ::nbdforkhost::notify debug $text }
    }

    proc shutdown {} { ::nbdforkhost::notify shutdown }

    proc export_name {} {
        if {![info exists ::nbdforkhost::export_name]} {
            error "no client has chosen an export here"
        }
        return $::nbdforkhost::export_name
    }

    proc parse_size {text} {
        set powers {{} 0 b 0 s 9 k 10 m 20 g 30 t 40 p 50 e 60}
        if {![regexp {^\s*\+?(0[xX][[:xdigit:]]+|0[0-7]*|[1-9]\d*)([a-zA-Z]?)$} $text -> number unit]
                || ![dict exists $powers [string tolower $unit]]} {
            error "not a size: '$text'"
        }
        regsub {^0(?=[0-7])} $number 0o number
        set number [expr {$number + 0}]
        set size [expr {$number << [dict get $powers [string tolower $unit]]}]
        if {$size >= 1 << 63} { error "too large a size: '$text'" }
        return $size
    }

    proc parse_bool {text} {
        if {[string tolower $text] in {1 true t yes y on}} { return 1 }
        if {[string tolower $text] in {0 false f no n off}} { return 0 }
        error "not a truth value: '$text'"
    }
}

# A real exit would end the process, with all its clients.  Only a child process that the script
# forked (with TclX) may exit.
proc ::exit {{status 0}} {
    if {[pid] == $::nbdforkhost::process} { error "the script called exit($status)" }
    ::nbdforkhost::flush_files
    ::nbdforkhost::end_process $status
}

namespace eval ::nbdforkhost {
    variable errno 0
    variable READ_ONLY 1

    # Procedures are called as the callbacks are, except these.
    variable names {open plugin_open close plugin_close flush plugin_flush}

    variable FACTS {is_rotational can_multi_conn can_write can_flush can_trim can_zero
        can_fast_zero can_extents}
    variable NUMBERS {thread_model get_size can_fua can_cache}
    variable PLAIN {dump_plugin config_complete get_ready unload after_fork cleanup}

    # The number of arguments of these; a procedure that takes one more is given the flags as well.
    variable arguments {pread 3 pwrite 3 flush 1 trim 3 zero 4 cache 3 extents 3}

    variable CALLBACKS [concat $FACTS $NUMBERS $PLAIN [dict keys $arguments] {config preconnect
        list_exports default_export open close export_description block_size}]

    variable flags_wanted {}
    variable handles    ;# by number: what plugin_open returned
    variable exports    ;# by number: the export's name

    proc start {path is_verbose} {
        variable script $path verbose $is_verbose process [pid]
        unset -nocomplain ::argv0
    }

    proc flush_files {} {
        foreach channel [file channels] { catch { ::flush $channel } }
    }

    # Called in a new fork.
    proc serve {} {
        variable process [pid]
        expr {srand([pid] ^ [clock microseconds])}
    }

    # -- callbacks ---------------------------------------------------------------------------

    proc procedure_of {name} {
        variable names
        return [expr {[dict exists $names $name] ? [dict get $names $name] : $name}]
    }

    proc has {name} {
        return [expr {[info procs ::[procedure_of $name]] ne ""}]
    }

    proc wants_flags {name} {
        variable arguments
        if {![has $name] || ![dict exists $arguments $name]} { return 0 }
        set declared [info args ::[procedure_of $name]]
        return [expr {"args" ni $declared && [llength $declared] > [dict get $arguments $name]}]
    }

    proc invoke {name args} {
        if {![has $name]} { error "the script has no [procedure_of $name]" }
        return [::[procedure_of $name] {*}$args]
    }

    proc invoke_if_there {name args} {
        if {[has $name]} { invoke $name {*}$args }
        return
    }

    proc with_flags {name flags args} {
        variable flags_wanted
        if {$name in $flags_wanted} { lappend args $flags }
        return [::[procedure_of $name] {*}$args]
    }

    proc is {flags flag} { return [expr {($flags & $flag) != 0}] }

    proc utf8 {text} { return [encoding convertto utf-8 $text] }

    # -- operations --------------------------------------------------------------------------
    #
    # The arguments of each are the number of the handle, payload, flags, count and offset.  It
    # returns the reply's value, or bytes, which are the reply's payload.  Inside this namespace they
    # hide the Tcl commands of the same names.

    proc load {number data flags count offset} {
        variable script
        variable CALLBACKS
        variable flags_wanted
        fconfigure stdout -buffering line
        uplevel #0 [list source $script]
        set flags_wanted [lmap name $CALLBACKS { if {![wants_flags $name]} continue; set name }]
        set callbacks [lmap name $CALLBACKS { if {![has $name]} continue; set name }]
        return [utf8 [join [list callbacks=$callbacks \
            one_process=[expr {[one_process] ? "yes" : "no"}] \
            tcl_version=[info tclversion] tcl_patch_level=[info patchlevel]] \n]]
    }

    proc one_process {} {
        return [expr {![info exists ::NBDFORK_PROCESSES] || !$::NBDFORK_PROCESSES}]
    }

    proc config {number data flags count offset} {
        set text [encoding convertfrom utf-8 $data]
        set at [string first \0 $text]
        invoke config [string range $text 0 $at-1] [string range $text $at+1 end]
        return
    }

    proc preconnect {number data flags count offset} {
        variable READ_ONLY
        invoke preconnect [is $flags $READ_ONLY]
        return
    }

    proc list_exports {number data flags count offset} {
        variable READ_ONLY
        set fields ""
        foreach export [invoke list_exports [is $flags $READ_ONLY]] {
            lassign $export name description
            append fields $name \0 $description \0
        }
        return [utf8 $fields]
    }

    proc default_export {number data flags count offset} {
        variable READ_ONLY
        return [utf8 [invoke default_export [is $flags $READ_ONLY]]]
    }

    proc open {number data flags count offset} {
        variable READ_ONLY
        variable handles
        variable exports
        variable export_name [encoding convertfrom utf-8 $data]
        set handles($number) [invoke open [is $flags $READ_ONLY]]
        set exports($number) $export_name
        return
    }

    proc close {number data flags count offset} {
        variable handles
        variable exports
        if {![info exists handles($number)]} return
        set handle $handles($number)
        unset handles($number) exports($number)
        invoke_if_there close $handle
    }

    proc export_description {number data flags count offset} {
        variable handles
        return [utf8 [invoke export_description $handles($number)]]
    }

    proc block_size {number data flags count offset} {
        variable handles
        return [binary format W3 [invoke block_size $handles($number)]]
    }

    proc pread {number data flags count offset} {
        variable handles
        set data [with_flags pread $flags $handles($number) $count $offset]
        if {[string length $data] < $count} {
            error "pread: buffer returned from pread is too small"
        }
        # To look at its characters, Tcl would make a string of bytes that are none.
        set kind [::tcl::unsupported::representation $data]
        if {![string match "value is a bytearray*" $kind] && [regexp {[^\u0000-\u00ff]} $data]} {
            error "pread returned characters that are no bytes"
        }
        return [binary format a$count $data]
    }

    proc pwrite {number data flags count offset} {
        variable handles
        with_flags pwrite $flags $handles($number) $data $offset
        return
    }

    proc flush {number data flags count offset} {
        variable handles
        with_flags flush $flags $handles($number)
        return
    }

    foreach name {trim cache} {
        proc $name {number data flags count offset} [string map [list NAME $name] {
            variable handles
            with_flags NAME $flags $handles($number) $count $offset
            return
        }]
    }

    proc zero {number data flags count offset} {
        variable handles
        variable errno
        with_flags zero $flags $handles($number) $count $offset \
            [is $flags $::nbdkit::FLAG_MAY_TRIM]
        if {$errno == [errno_of EOPNOTSUPP]} { error "the script asks for zeroes to be written" }
        return
    }

    proc extents {number data flags count offset} {
        variable handles
        set packed ""
        foreach extent [with_flags extents $flags $handles($number) $count $offset] {
            append packed [binary format WWI {*}$extent]
        }
        return [binary format a* $packed]
    }

    foreach name $FACTS {
        proc $name {number data flags count offset} [string map [list NAME $name] {
            variable handles
            set value [invoke NAME $handles($number)]
            return [expr {$value ? 1 : 0}]
        }]
    }

    foreach name $NUMBERS {
        proc $name {number data flags count offset} [string map [list NAME $name] {
            variable handles
            set value [invoke NAME {*}[expr {$number ? [list $handles($number)] : {}}]]
            if {![string is wideinteger -strict $value]} {
                error "NAME: expected integer but got \"$value\""
            }
            return [expr {wide($value)}]
        }]
    }

    foreach name $PLAIN {
        proc $name {number data flags count offset} [list invoke_if_there $name]
    }

    # -- requests ----------------------------------------------------------------------------

    proc perform {operation number data flags count offset} {
        variable errno 0
        variable exports
        variable export_name
        if {[info exists exports($number)]} {
            set export_name $exports($number)
        } else {
            unset -nocomplain export_name
        }
        return [$operation $number $data $flags $count $offset]
    }

    # Return the errno of a failed callback: what it set, or that of a system call that failed.
    proc error_of_callback {} {
        variable errno
        if {$errno} { return $errno }
        if {[lindex $::errorCode 0] eq "POSIX"} { return [errno_of [lindex $::errorCode 1]] }
        return [errno_of EIO]
    }
}
