"""Scripts in every language that are too long to stand above their tests."""

PROCESS = {
    "lua": """\
function pread(h, n, offset)
    local stat = io.open("/proc/self/stat")
    local pid = stat:read("n")
    stat:close()
    return string.pack("c" .. n, MADE or pid)
end
function thread_model() return nbdkit.THREAD_MODEL_PARALLEL end
NBDFORK_PROCESSES = true
""",
    "perl": """\
our ($made, $NBDFORK_PROCESSES) = (0, 1);
sub pread { my ($h, $n) = @_; return pack "a$n", $made || $$ }
sub thread_model { 3 }
""",
    "ruby": """\
def pread(h, n, offset) = (@made || Process.pid).to_s.ljust(n)
def thread_model = Nbdkit::THREAD_MODEL_PARALLEL
NBDFORK_PROCESSES = true
""",
    "tcl": """\
set made 0
proc pread {h n offset} { binary format a$n [expr {$::made ? $::made : [pid]}] }
proc thread_model {} { return $nbdkit::THREAD_MODEL_PARALLEL }
set NBDFORK_PROCESSES 1
""",
}
"""Scripts with a process for each client, whose disk tells which; or what was made before."""

ENDS = {
    "lua": """\
local log
local function note(what)
    local stat, file = io.open("/proc/self/stat"), io.open(log, "a")
    file:write(what, " ", stat:read("n"), "\\n")
    stat:close()
    file:close()
end
function config(key, value) log = value end
function cleanup() note("cleanup") end
function unload() note("unload") end
THE_END = setmetatable({}, {__gc = function() note("end") end})
""",
    "perl": """\
my $log;
sub note { CORE::open(my $file, '>>', $log); print $file "$_[0] $$\\n" }
sub config { my ($key, $value) = @_; $log = $value }
sub cleanup { note('cleanup') }
sub unload { note('unload') }
END { note('end') }
""",
    "ruby": """\
def note(what) = File.write($log, "#{what} #{Process.pid}\\n", mode: 'a')
def config(key, value)
  $log = value
end
def cleanup = note('cleanup')
def unload = note('unload')
""",
    "tcl": """\
proc note {what} { set file [open $::log a]; puts $file "$what [pid]"; close $file }
proc config {key value} { set ::log $value }
proc cleanup {} { note cleanup }
proc unload {} { note unload }
""",
}
"""Scripts that write into the file log=FILENAME what is called when they end, and where."""

EACH_A_PROCESS = {
    "lua": "NBDFORK_PROCESSES = true\n",
    "perl": "our $NBDFORK_PROCESSES = 1;\n",
    "ruby": "NBDFORK_PROCESSES = true\n",
    "tcl": "set NBDFORK_PROCESSES 1\n",
}
"""What asks for a process for each client."""

FLAGS = {
    "lua": """\
local seen = {}
local function note(...)
    for _, value in ipairs {...} do seen[#seen + 1] = tostring(value) end
end
function pread(h, n, o) return string.pack("c" .. n, table.concat(seen, " ")) end
function can_fua(h) return nbdkit.FUA_NATIVE end
function flush(h, flags) note("flush", flags) end
function pwrite(h, buf, offset, flags) note("pwrite", flags & nbdkit.FLAG_FUA) end
function trim(h, count, offset, flags) note("trim", flags) end
function zero(h, count, offset, may_trim, flags) note("zero", may_trim, flags) end
""",
    "ruby": """\
$seen = []
def pread(h, count, offset) = $seen.join(' ').ljust(count)
def can_fua(h) = Nbdkit::FUA_NATIVE
def flush(h, flags) = $seen << "flush #{flags}"
def pwrite(h, buf, offset, flags) = $seen << "pwrite #{flags & Nbdkit::FLAG_FUA}"
def trim(h, count, offset, flags = 0) = $seen << "trim #{flags}"
def zero(h, count, offset, may_trim, flags) = $seen << "zero #{may_trim} #{flags}"
""",
    "tcl": """\
set seen {}
proc note {args} { lappend ::seen {*}$args }
proc pread {h count offset} { binary format a$count $::seen }
proc can_fua {h} { return $nbdkit::FUA_NATIVE }
proc plugin_flush {h flags} { note flush $flags }
proc pwrite {h buf offset flags} { note pwrite [expr {$flags & $nbdkit::FLAG_FUA}] }
proc trim {h count offset {flags 0}} { note trim $flags }
proc zero {h count offset may_trim flags} { note zero [lindex {false true} $may_trim] $flags }
""",
}
"""Scripts whose disk tells which requests there were, and with which flags."""

FURTHER = {
    "lua": """\
function list_exports(readonly) return {"one", {"two", "the second"}} end
function default_export(readonly) return "one" end
function open(readonly) return {name = nbdkit.export_name()} end
function get_size(h) return nbdkit.parse_size("64k") end
function export_description(h) return "this is " .. h.name end
function block_size(h) return {512, 4096, 65536} end
function can_cache(h) return nbdkit.CACHE_NATIVE end
function cache(h, count, offset) end
function can_multi_conn(h) return nbdkit.parse_bool("yes") end
function extents(h, count, offset)
    local nothing = nbdkit.EXTENT_HOLE | nbdkit.EXTENT_ZERO
    return {{offset, 512, 0}, {offset + 512, count, nothing}}
end
""",
    "perl": """\
sub list_exports { return ['one', ['two', 'the second']] }
sub default_export { return 'one' }
sub open { return { name => Nbdkit::export_name() } }
sub get_size { return Nbdkit::parse_size('64k') }
sub export_description { my ($h) = @_; return "this is $h->{name}" }
sub block_size { return [512, 4096, 65536] }
sub can_cache { return $Nbdkit::CACHE_NATIVE }
sub cache { }
sub can_multi_conn { return Nbdkit::parse_bool('yes') }
sub extents {
    my ($h, $count, $offset, $flags) = @_;
    return [[$offset, 512, 0], [$offset + 512, $count,
        $Nbdkit::EXTENT_HOLE | $Nbdkit::EXTENT_ZERO]];
}
""",
    "ruby": """\
def list_exports(readonly) = ['one', ['two', 'the second']]
def default_export(readonly) = 'one'
def open(readonly) = { name: Nbdkit.export_name }
def get_size(h) = Nbdkit.parse_size('64k')
def export_description(h) = "this is #{h[:name]}"
def block_size(h) = [512, 4096, 65536]
def can_cache(h) = Nbdkit::CACHE_NATIVE
def cache(h, count, offset) = nil
def can_multi_conn(h) = Nbdkit.parse_bool('yes')
def extents(h, count, offset)
  [[offset, 512, 0], [offset + 512, count, Nbdkit::EXTENT_HOLE | Nbdkit::EXTENT_ZERO]]
end
""",
    "tcl": """\
proc list_exports {readonly} { return {one {two {the second}}} }
proc default_export {readonly} { return one }
proc plugin_open {readonly} { return [nbdkit::export_name] }
proc get_size {h} { return [nbdkit::parse_size 64k] }
proc export_description {h} { return "this is $h" }
proc block_size {h} { return {512 4096 65536} }
proc can_cache {h} { return $nbdkit::CACHE_NATIVE }
proc cache {h count offset} {}
proc can_multi_conn {h} { return [nbdkit::parse_bool yes] }
proc extents {h count offset} {
    set nothing [expr {$nbdkit::EXTENT_HOLE | $nbdkit::EXTENT_ZERO}]
    return [list [list $offset 512 0] [list [expr {$offset + 512}] $count $nothing]]
}
""",
}
"""Scripts with the callbacks and functions that nbdkit's plugins do not have."""
