# The helper for scripts in Perl: it speaks the protocol of nbdfork-host-plugin(3).
#
# The script is loaded into the package main, as nbdkit does it, so nothing of the helper may be
# there: the helper lives in NbdforkHost, what it offers to scripts in Nbdkit.  The first process
# is the template: it configures the script and forks for every worker.

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
sub debug { NbdforkHost::notice(0, join '', @_) if $NbdforkHost::verbose; return }
sub shutdown { NbdforkHost::notice(1, ''); return }

sub export_name {
    defined $NbdforkHost::export_name or die "no client has chosen an export here";
    return $NbdforkHost::export_name;
}

sub parse_size {
    my ($text) = @_;
    my %power = ('' => 0, b => 0, k => 10, m => 20, g => 30, t => 40, p => 50, e => 60);
    my ($number, $unit) = $text =~ /^\s*\+?(\d+)([a-z]?)$/ai or die "not a size: '$text'";
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

use Errno qw(EINTR EIO EOPNOTSUPP);
use IO::Handle;
use POSIX ();
use Socket;

our ($errno, $export_name, $verbose) = (0, undef, $ENV{NBDFORK_VERBOSE});
my ($script) = @ARGV;
my $socket;             # the connection whose requests are answered
my $received = '';      # from it, and not yet looked at
my %handles;            # by number: what open returned, and the name of the export
my ($is_fork, $has_forked) = (0, 0);
my %forks;              # of the template: process numbers, and wait statuses once they are known
my $NOTICE = 0xFFFFFFFF;
my $READ_ONLY = 1;
my ($NO_STDIO, $LOG_STDERR) = (1, 2);

my @CALLBACKS = qw(dump_plugin config config_complete thread_model get_ready unload after_fork
    cleanup preconnect list_exports default_export open close get_size export_description
    block_size is_rotational can_multi_conn can_write can_flush can_trim can_zero can_fast_zero
    can_fua can_cache can_extents pread pwrite flush trim zero cache extents);

# -- bytes ----------------------------------------------------------------------------------

sub leave {
    # What the script has to do in the end (END blocks) is done once: where its state is.
    my $does_it = $is_fork ? one_process() : !one_process() || !$has_forked;
    $does_it ? exit 0 : POSIX::_exit(0);
}

sub one_process { no strict 'refs'; no warnings 'once'; return !$main::NBDFORK_PROCESSES }

sub need {
    my ($count) = @_;
    while (length $received < $count) {
        my $got = sysread $socket, $received, 1 << 18, length $received;
        next if !defined $got && $! == EINTR;
        return 0 if !$got;
    }
    return 1;
}

sub put {
    my ($error, $value, $payload) = @_;
    my $frame = pack('NNq>', length $payload, $error, $value) . $payload;
    my $sent = syswrite $socket, $frame;
    while (defined $sent ? $sent < length $frame : $! == EINTR) {
        substr($frame, 0, $sent // 0, '');
        $sent = syswrite $socket, $frame;
    }
    leave() if !defined $sent;
    return;
}

sub notice {
    my ($kind, $text) = @_;
    utf8::encode($text) if utf8::is_utf8($text);
    put($NOTICE, $kind, $text);
    return;
}

# -- callbacks ------------------------------------------------------------------------------

sub has { no strict 'refs'; return defined &{"main::$_[0]"} }

sub call {
    my ($name, @arguments) = @_;
    no strict 'refs';
    defined &{"main::$name"} or die "the script has no $name\n";
    return scalar &{"main::$name"}(@arguments);
}

sub text { my ($text) = @_; utf8::encode($text) if utf8::is_utf8($text); return $text }

sub load {
    @ARGV = ();
    $0 = $script;
    -r $script or die "cannot read it: $!\n";
    { package main; do $script }
    die $@ if $@;
    my @facts = ('callbacks=' . join(' ', grep { has($_) } @CALLBACKS),
        'one_process=' . (one_process() ? 'yes' : 'no'), sprintf('perl_version=%vd', $^V));
    return (0, join "\n", @facts);
}

sub read_data {
    my ($handle, $payload, $flags, $count, $offset) = @_;
    my $data = call('pread', $handle, $count, $offset, $flags);
    defined $data or die "pread returned nothing\n";
    utf8::downgrade($data, 1) or die "pread returned characters that are no bytes\n";
    length $data >= $count or die "the buffer returned from pread is too small\n";
    return (0, length $data > $count ? substr $data, 0, $count : $data);
}

sub zero {
    my ($handle, $payload, $flags, $count, $offset) = @_;
    call('zero', $handle, $count, $offset, $flags);
    die "the script asks for zeroes to be written\n" if $errno == EOPNOTSUPP;
    return (0, '');
}

sub fact { my ($name) = @_; return sub { return (0 + (call($name, $_[0]) || 0), '') } }

sub on_range {
    my ($name) = @_;
    return sub { call($name, @_[0, 3, 4, 2]); return (0, '') };
}

sub plain { my ($name) = @_; return sub { call($name) if has($name); return (0, '') } }

# What each operation does: it gets the handle, the payload, flags, count and offset, and returns
# the value and the payload of the reply.
my %operation = (
    load => \&load,
    config => sub { call('config', split /\0/, $_[1], 2); return (0, '') },
    thread_model => sub { return (call('thread_model'), '') },
    preconnect => sub { call('preconnect', $_[2] & $READ_ONLY); return (0, '') },
    list_exports => sub {
        my $exports = call('list_exports', $_[2] & $READ_ONLY, 0);
        return (0, join '', map { text($_) . "\0" } map { ref ? @$_[0, 1] : ($_, '') } @$exports);
    },
    default_export => sub { return (0, text(call('default_export', $_[2] & $READ_ONLY, 0))) },
    export_description => sub { return (0, text(call('export_description', $_[0]))) },
    block_size => sub { return (0, pack 'Q>3', @{call('block_size', $_[0])}) },
    pread => \&read_data,
    pwrite => sub { call('pwrite', @_[0, 1, 4, 2]); return (0, '') },
    flush => sub { call('flush', @_[0, 2]); return (0, '') },
    zero => \&zero,
    extents => sub {
        return (0, join '', map { pack 'Q>Q>N', @$_ } @{call('extents', @_[0, 3, 4, 2])});
    },
    (map { $_ => on_range($_) } qw(trim cache)),
    (map { $_ => fact($_) } qw(get_size is_rotational can_multi_conn can_write can_flush can_trim
        can_zero can_fast_zero can_fua can_cache can_extents)),
    (map { $_ => plain($_) } qw(dump_plugin config_complete get_ready unload after_fork cleanup)),
);

# The operations by number; see frames.py.
my @OPERATIONS = (undef, @operation{qw(load dump_plugin config config_complete thread_model
    get_ready unload start wait after_fork cleanup preconnect list_exports default_export open
    close get_size export_description block_size is_rotational can_multi_conn can_write can_flush
    can_trim can_zero can_fast_zero can_fua can_cache can_extents pread pwrite flush trim zero
    cache extents)});
my ($START, $WAIT, $OPEN, $CLOSE) = (8, 9, 15, 16);

# -- requests -------------------------------------------------------------------------------

sub request {
    need(32) or return;
    my ($length, @fields) = unpack 'NNNNQ>Q>', substr $received, 0, 32, '';
    need($length) or return;
    return (@fields, substr $received, 0, $length, '');
}

sub open_handle {
    my ($number, $flags, $payload) = @_;
    $export_name = $payload;
    my $value = call('open', $flags & $READ_ONLY);
    defined $value or die "open returned nothing\n";
    $handles{$number} = [$value, $payload];
    return (0, '');
}

sub close_handle {
    my ($number) = @_;
    my ($value) = @{delete $handles{$number}};
    call('close', $value) if has('close');
    return (0, '');
}

sub answer {
    my ($operation, $number, $flags, $count, $offset, $payload) = @_;
    $errno = 0;
    my $handle;
    ($handle, $export_name) = @{$handles{$number}} if $number && $handles{$number};
    my ($value, $reply) = eval {
        $operation == $OPEN ? open_handle($number, $flags, $payload)
        : $operation == $CLOSE ? close_handle($number)
        : ($OPERATIONS[$operation] // die "unknown operation $operation\n")->(
            $handle, $payload, $flags, $count, $offset)
    };
    if ($@) {
        put($errno || EIO, 0, text("$@"));
    } else {
        put(0, $value, $reply);
    }
    return;
}

# -- the template ---------------------------------------------------------------------------

sub become {
    my ($flags, $directory, $uid, $gid, $groups) = @_;
    chdir $directory or die "$directory: $!\n";
    $SIG{$_} = 'IGNORE' for qw(INT TERM HUP QUIT);    # the end of the connection ends us
    if ($flags & $NO_STDIO) {
        CORE::open(STDIN, '<', '/dev/null') && CORE::open(STDOUT, '>', '/dev/null')
            or die "/dev/null: $!\n";
    }
    if ($flags & $LOG_STDERR) {
        CORE::open(STDERR, '>&=', $ENV{NBDFORK_LOG}) or die "the log: $!\n";
    }
    return if $uid == $> && $gid == POSIX::getegid();
    $) = join ' ', $gid, $groups || $gid;
    POSIX::setgid($gid) && POSIX::setuid($uid) or die "cannot become user $uid: $!\n";
    return;
}

sub start {
    my ($listener, $control, $flags, $payload) = @_;
    eval { become($flags, split /\0/, $payload, 4); 1 } or return put(EIO, 0, "$@");
    for my $pid (grep { !defined $forks{$_} } keys %forks) {
        $forks{$pid} = $? if waitpid($pid, POSIX::WNOHANG()) == $pid;
    }
    my $pid = fork;
    defined $pid or return put(EIO, 0, "fork: $!");
    if ($pid) {
        $forks{$pid} = undef;
        $has_forked = 1;
        return;
    }
    $is_fork = 1;
    CORE::close($_) for $listener, $control;
    $SIG{PIPE} = 'IGNORE';
    srand;
    put(0, $$, '');
    while (my @request = request()) {
        answer(@request);
    }
    leave();
    return;
}

sub wait_for {
    my ($pid) = @_;
    if (exists $forks{$pid} && !defined $forks{$pid}) {
        waitpid $pid, 0;
        $forks{$pid} = $?;
    }
    my $status = delete $forks{$pid};
    return defined $status ? put(0, $status, '') : put(EIO, 0, "$pid is no fork of this helper");
}

sub serve_worker {
    my ($listener, $control) = @_;
    CORE::accept(my $worker, $listener) or return;
    ($socket, $received) = ($worker, '');
    my ($operation, undef, $flags, undef, $offset, $payload) = request() or return;
    start($listener, $control, $flags, $payload) if $operation == $START;
    wait_for($offset) if $operation == $WAIT;
    return;
}

sub main {
    STDOUT->autoflush(1);
    CORE::open(my $listener, '+<&=', $ENV{NBDFORK_SOCKET}) or die "run me with nbdfork perl: $!\n";
    CORE::accept(my $control, $listener) or die "accept: $!\n";
    my ($control_fd, $listener_fd) = (fileno($control), fileno($listener));
    my $watched = '';
    vec($watched, $_, 1) = 1 for $control_fd, $listener_fd;
    while (1) {
        my $ready = $watched;
        next if select($ready, undef, undef, undef) < 0;
        ($socket, $received) = ($control, '');
        if (vec $ready, $control_fd, 1) {
            my @request = request() or leave();
            answer(@request);
        } else {
            serve_worker($listener, $control);
            $socket = undef;    # only the fork has it now, so its end is seen
        }
    }
    return;
}

main();
