# The Perl side of the perl plugin: it calls the script's callbacks; see interpreter.py.
#
# The script is loaded into the package main, as nbdkit does it, so nothing else may be in there:
# the code here is in NbdforkHost, and what scripts may call is in Nbdkit.

package Nbdkit;

use strict;
use warnings;

our ($FLAG_MAY_TRIM, $FLAG_FUA, $FLAG_REQ_ONE, $FLAG_FAST_ZERO) = (1, 2, 4, 8);
our ($FUA_NONE, $FUA_EMULATE, $FUA_NATIVE) = (0, 1, 2);
our ($CACHE_NONE, $CACHE_EMULATE, $CACHE_NATIVE) = (0, 1, 2);
our ($EXTENT_HOLE, $EXTENT_ZERO) = (1, 2);
our ($THREAD_MODEL_SERIALIZE_CONNECTIONS, $THREAD_MODEL_SERIALIZE_ALL_REQUESTS,
    $THREAD_MODEL_SERIALIZE_REQUESTS, $THREAD_MODEL_PARALLEL) = (0 .. 3);

sub set_error { $NbdforkHost::errno = 0 + $_[0]; return }
sub debug { NbdforkHost::notice('debug', @_) if $NbdforkHost::verbose; return }
sub shutdown { NbdforkHost::notice('shutdown'); return }

sub export_name {
    defined $NbdforkHost::export_name or die "no client has chosen an export here";
    return $NbdforkHost::export_name;
}

sub parse_size {
    my ($text) = @_;
    my %power = ('' => 0, b => 0, k => 10, m => 20, g => 30, t => 40, p => 50, e => 60);
    my ($number, $unit) = $text =~ /^\s*\+?(0x[0-9a-f]+|0[0-7]*|[1-9]\d*)([a-z]?)$/ai
        or die "not a size: '$text'";
    $number = oct $number if $number =~ /^0/;
    return $number * 512 if lc $unit eq 's';
    defined $power{lc $unit} or die "not a size: '$text'";
    my $size = $number * 2 ** $power{lc $unit};
    $size < 2 ** 63 or die "too large a size: '$text'";
    return $number << $power{lc $unit};
}

sub parse_bool {
    my ($text) = @_;
    return 1 if $text =~ /^(?:1|true|t|yes|y|on)$/i;
    return 0 if $text =~ /^(?:0|false|f|no|n|off)$/i;
    die "not a truth value: '$text'";
}

package NbdforkHost;

use Errno qw(EIO EOPNOTSUPP);
use IO::Handle;
use POSIX ();

our ($errno, $export_name, $verbose) = (0, undef);
our ($request, $answer) = ('', '');    # memory shared with interpreter.py: request and reply
our $door;                             # reading it carries out a request
our $payload;                          # of the reply: it is kept until the next request
my $script;
my %callbacks;                         # by name: the globs of those that the script has
my %handles;                           # by number: what open returned, and the export's name
my @notices;
my $process = $$;
my $exit_status = 0;
my $READ_ONLY = 1;
my $IS_TLS = 2;

my @CALLBACKS = qw(dump_plugin config config_complete thread_model get_ready unload after_fork
    cleanup preconnect list_exports default_export open close get_size export_description
    block_size is_rotational can_multi_conn can_write can_flush can_trim can_zero can_fast_zero
    can_fua can_cache can_extents pread pwrite flush trim zero cache extents);

# -- callbacks ------------------------------------------------------------------------------

sub one_process { no strict 'refs'; no warnings 'once'; return !$main::NBDFORK_PROCESSES }

sub call {
    my $name = shift;
    my $callback = $callbacks{$name} // die "the script has no $name\n";
    return scalar &$callback(@_);
}

sub call_if_there { my $name = shift; call($name, @_) if $callbacks{$name}; return 0 }

sub text { my ($text) = @_; utf8::encode($text) if utf8::is_utf8($text); return $text }

sub load {
    @ARGV = ();
    *0 = \$script;    # to assign to $0 would also change the name of this process
    -r $script or die "cannot read it: $!\n";
    { package main; do $script }
    die $@ if $@;
    no strict 'refs';
    %callbacks = map { $_ => *{"main::$_"} } grep { defined &{"main::$_"} } @CALLBACKS;
    $payload = join "\n", 'callbacks=' . join(' ', keys %callbacks),
        'one_process=' . (one_process() ? 'yes' : 'no'), sprintf 'perl_version=%vd', $^V;
    return 0;
}

sub open_handle {
    my (undef, $data, $flags, undef, undef, $number) = @_;
    $export_name = $data;
    my $value = call('open', $flags & $READ_ONLY);
    defined $value or die "open returned nothing\n";
    $handles{$number} = [$value, $data];
    return 0;
}

sub close_handle {
    my ($handle, $number) = @_[0, 5];
    delete $handles{$number};
    return call_if_there('close', $handle);
}

sub read_data {
    my ($handle, undef, $flags, $count, $offset) = @_;
    $payload = call('pread', $handle, $count, $offset, $flags);
    defined $payload or die "pread returned nothing\n";
    utf8::downgrade($payload, 1) or die "pread returned characters that are no bytes\n";
    length $payload >= $count or die "the buffer returned from pread is too small\n";
    substr($payload, $count) = '' if length $payload > $count;
    return 0;
}

sub write_data { call('pwrite', @_[0, 1, 4, 2]); return 0 }

sub zero {
    call('zero', @_[0, 3, 4, 2]);
    die "the script asks for zeroes to be written\n" if $errno == EOPNOTSUPP;
    return 0;
}

sub extents {
    $payload = join '', map { pack 'Q>Q>N', @$_ } @{call('extents', @_[0, 3, 4, 2])};
    return 0;
}

# What is known about a client before it chooses an export: read-only or not, TLS or not.
sub negotiated { my ($flags) = @_; return ($flags & $READ_ONLY, ($flags & $IS_TLS) / $IS_TLS) }

sub list_exports {
    my $exports = call('list_exports', negotiated($_[2]));
    $payload = join '', map { text($_) . "\0" } map { ref ? @$_[0, 1] : ($_, '') } @$exports;
    return 0;
}

# A whole number of 64 bits; what is no number at all is not taken for 0.
sub number {
    my ($name, $value) = @_;
    no warnings 'uninitialized';
    return 0 + $value
        if $value =~ /\A\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*\z/a
        && $value == int $value && abs($value) <= 9223372036854775807;
    my $shown = defined $value ? "'" . text(substr $value, 0, 40) . "'" : 'nothing';
    die "$name returned $shown; return a whole number\n";
}

sub size { return number('get_size', call('get_size', $_[0])) }

# Perl's own false values are the empty string and undef.
sub fact {
    my ($name) = @_;
    return sub { my $value = call($name, $_[0]); return $value ? number($name, $value) : 0 };
}

sub on_range { my ($name) = @_; return sub { call($name, @_[0, 3, 4, 2]); return 0 } }

sub plain { my ($name) = @_; return sub { return call_if_there($name) } }

# What each operation does.  The arguments are handle, payload, flags, count, offset and the number
# of the handle; it returns the reply's value, and leaves the reply's payload in $payload.
my %operation = (
    load => \&load,
    start => sub { $process = $$; srand; return 0 },
    config => sub { call('config', split /\0/, $_[1], 2); return 0 },
    thread_model => sub { return number('thread_model', call('thread_model')) },
    preconnect => sub { call('preconnect', $_[2] & $READ_ONLY); return 0 },
    list_exports => \&list_exports,
    default_export => sub {
        $payload = text(call('default_export', negotiated($_[2])));
        return 0;
    },
    open => \&open_handle,
    close => \&close_handle,
    export_description => sub { $payload = text(call('export_description', $_[0])); return 0 },
    block_size => sub { $payload = pack 'Q>3', @{call('block_size', $_[0])}; return 0 },
    pread => \&read_data,
    pwrite => \&write_data,
    flush => sub { call('flush', @_[0, 2]); return 0 },
    zero => \&zero,
    extents => \&extents,
    (map { $_ => on_range($_) } qw(trim cache)),
    get_size => \&size,
    (map { $_ => fact($_) } qw(is_rotational can_multi_conn can_write can_flush can_trim
        can_zero can_fast_zero can_fua can_cache can_extents)),
    (map { $_ => plain($_) } qw(dump_plugin config_complete get_ready unload after_fork cleanup)),
);

# The operations by number; see frames.py.
my @OPERATIONS = (\&fetch_notices, @operation{qw(load dump_plugin config config_complete
    thread_model get_ready unload start wait after_fork cleanup preconnect list_exports
    default_export open close get_size export_description block_size is_rotational can_multi_conn
    can_write can_flush can_trim can_zero can_fast_zero can_fua can_cache can_extents pread pwrite
    flush trim zero cache extents)});

# -- requests -------------------------------------------------------------------------------

sub notice {
    my ($kind, @texts) = @_;
    push @notices, "$kind " . (text(join '', @texts) =~ tr/\0//dr) . "\0";
    return;
}

sub fetch_notices { $payload = join '', splice @notices; return 0 }

# A child process that the script forked must not go on as a server.
sub end_child {
    no warnings;
    CORE::exec { '' } '';    # this fails, but Perl flushes all files before it tries
    CORE::exit $exit_status;
}

sub FETCH {
    my ($operation, $number, $flags, $count, $offset, $address, $length) = unpack 'L!4Q3', $request;
    (my $handle, $export_name) = @{$handles{$number} // []};
    ($errno, $payload, my $error) = (0, '', 0);
    my $value = eval {
        $OPERATIONS[$operation]->($handle, $length ? unpack "P$length", pack 'Q', $address : '',
            $flags, $count, $offset, $number);
    };
    ($error, $value, $payload) = ($errno || EIO, 0, text("$@")) if $@;
    end_child() if $$ != $process;
    substr $answer, 0, 40, pack 'l!l!qPQ', $error, scalar @notices, $value, $payload, length $payload;
    return;
}

sub TIESCALAR { return bless \my $nothing }

# -- starting -------------------------------------------------------------------------------

# A real exit would end the process, with all its clients.  In a child process that the script
# forked, end_child exits with the status that is noted here.
{
    no warnings 'once';
    *CORE::GLOBAL::exit = sub (;$) {
        $exit_status = $_[0] // 0;
        die "the script called exit($exit_status)\n";
    };
}

$SIG{__WARN__} = sub { notice('warning', @_); return };
STDOUT->autoflush(1);
($script, $verbose) = splice @ARGV, 0, 2;
vec($_, 63, 8) = 0 for $request, $answer;    # room enough, so that they never move in memory
tie $door, __PACKAGE__;
1;
