# The helper for scripts in Ruby: it speaks the protocol of nbdfork-host-plugin(3).
#
# Methods that a script defines at the top level become methods of every object.  So everything here
# is in modules, whose own methods come first, and Kernel's methods are called as Kernel.method.

require 'io/nonblock'
require 'socket'

# What scripts may call.
module Nbdkit
  FLAG_MAY_TRIM, FLAG_FUA, FLAG_REQ_ONE, FLAG_FAST_ZERO = 1, 2, 4, 8
  FUA_NONE, FUA_EMULATE, FUA_NATIVE = 0, 1, 2
  CACHE_NONE, CACHE_EMULATE, CACHE_NATIVE = 0, 1, 2
  EXTENT_HOLE, EXTENT_ZERO = 1, 2
  THREAD_MODEL_SERIALIZE_CONNECTIONS, THREAD_MODEL_SERIALIZE_ALL_REQUESTS,
    THREAD_MODEL_SERIALIZE_REQUESTS, THREAD_MODEL_PARALLEL = 0, 1, 2, 3

  POWERS = ['', *%w[k m g t p e]].each_with_index.to_h { |unit, i| [unit, 10 * i] }
                                 .merge('b' => 0, 's' => 9).freeze
  private_constant :POWERS

  # Set the error for when the callback raises: an errno, or a class or an instance of Errno.
  def self.set_error(error)
    error = error::Errno if error.is_a?(Module)
    NbdforkHost.errno = error.respond_to?(:errno) ? error.errno : Integer(error)
    nil
  end

  def self.debug(text)
    NbdforkHost.debug(text)
  end

  def self.shutdown
    NbdforkHost.shutdown
  end

  def self.export_name
    NbdforkHost.export_name or raise 'no client has chosen an export here'
  end

  def self.parse_size(text)
    _, number, unit = *text.match(/\A\s*\+?(0x\h+|0[0-7]*|[1-9]\d*)([a-z]?)\z/i)
    power = POWERS[unit&.downcase] or raise ArgumentError, "not a size: '#{text}'"
    size = Integer(number) << power
    size < 2**63 or raise ArgumentError, "too large a size: '#{text}'"
    size
  end

  def self.parse_bool(text)
    case text
    when /\A(?:1|true|t|yes|y|on)\z/i then true
    when /\A(?:0|false|f|no|n|off)\z/i then false
    else raise ArgumentError, "not a truth value: '#{text}'"
    end
  end
end

# The script, and the requests that it answers.
module NbdforkHost
  MAIN = TOPLEVEL_BINDING.receiver
  READ_ONLY = 1

  FACTS = %i[get_size is_rotational can_multi_conn can_write can_flush can_trim can_zero
             can_fast_zero can_fua can_cache can_extents].freeze
  PLAIN = %i[dump_plugin config_complete get_ready unload after_fork cleanup].freeze
  FLAGS_COME_AFTER = { pread: 3, pwrite: 3, flush: 1, trim: 3, zero: 4, cache: 3,
                       extents: 3 }.freeze
  CALLBACKS = (PLAIN + FACTS + FLAGS_COME_AFTER.keys + %i[config thread_model preconnect
    list_exports default_export open close export_description block_size]).freeze

  @callbacks = {} # by name: whether it takes the flags
  @handles = {}   # by number: what open returned, and the export's name
  @process = Process.pid
  @verbose = ENV['NBDFORK_VERBOSE'] == '1'

  class << self
    attr_accessor :errno
    attr_reader :export_name

    # -- callbacks --------------------------------------------------------------------------

    def load_script(path)
      @script = $0 = path
      offer_data
      Kernel.load(path)
      names = CALLBACKS.select { |name| defined_by_script?(name) }
      @callbacks = names.to_h { |name| [name, wants_flags?(name)] }
      @one_process = !(Object.const_defined?(:NBDFORK_PROCESSES) && ::NBDFORK_PROCESSES)
      told = { callbacks: names.join(' '), one_process: @one_process ? 'yes' : 'no',
               ruby_version: RUBY_VERSION, ruby_api_version: RbConfig::CONFIG['ruby_version'] }
      told.map { |key, value| "#{key}=#{value}" }.join("\n")
    end

    # Ruby defines DATA for the program that it was started with only, which is not the script.
    def offer_data
      data = File.new(@script)
      data.each_line { |line| return Object.const_set(:DATA, data) if line.b.chomp == '__END__' }
      data.close
    end

    def defined_by_script?(name)
      MAIN.respond_to?(name, true) && MAIN.method(name).owner != Kernel
    end

    def wants_flags?(name)
      most = FLAGS_COME_AFTER[name] or return false
      kinds = MAIN.method(name).parameters.map(&:first)
      kinds.include?(:rest) ? false : kinds.count { |kind| %i[req opt].include?(kind) } > most
    end

    def call(name, *arguments)
      @callbacks.key?(name) or raise "the script has no #{name}"
      MAIN.__send__(name, *arguments)
    end

    def call_if_there(name, *arguments)
      call(name, *arguments) if @callbacks.key?(name)
    end

    def with_flags(name, flags, *arguments)
      @callbacks[name] ? call(name, *arguments, flags) : call(name, *arguments)
    end

    def open_handle(number, name, readonly)
      @export_name = name.force_encoding(Encoding::UTF_8)
      value = call(:open, readonly)
      raise 'open returned nil' if value.nil?

      @handles[number] = [value, name]
    end

    def close_handle(number, handle)
      @handles.delete(number)
      call_if_there(:close, handle)
    end

    def read_data(handle, flags, count, offset)
      data = with_flags(:pread, flags, handle, count, offset)
      data.is_a?(String) or raise "pread returned no string, but a #{data.class}"
      data.bytesize >= count or raise 'byte array returned from pread is too small'
      data.bytesize == count ? data : data.byteslice(0, count)
    end

    def zero_range(handle, flags, count, offset)
      may_trim = flags & Nbdkit::FLAG_MAY_TRIM != 0
      with_flags(:zero, flags, handle, count, offset, may_trim)
      raise 'the script asks for zeroes to be written' if @errno == Errno::EOPNOTSUPP::Errno
    end

    def number_of(name, value)
      return value == true ? 1 : 0 if [true, false, nil].include?(value) && name != :get_size

      number = Integer(value)
      fits = (value.is_a?(String) || number == value) && (-2**63...2**63).cover?(number)
      fits ? number : raise("#{name} returned #{value.to_s[0, 40]}; return a whole number")
    end

    def exports_of(list)
      list.map { |name, description| "#{name}\0#{description}\0" }.join
    end
  end

  # What each operation does.  Its result is the reply's value, the reply's payload, or ignored.
  VALUE = {
    thread_model: proc { number_of(:thread_model, call(:thread_model)) },
    **FACTS.to_h { |name| [name, proc { |handle| number_of(name, call(name, handle)) }] }
  }.freeze
  PAYLOAD = {
    load: proc { load_script(ARGV.shift) },
    list_exports: proc { |_, _, flags| exports_of(call(:list_exports, flags & READ_ONLY != 0)) },
    default_export: proc { |_, _, flags| call(:default_export, flags & READ_ONLY != 0).to_s },
    export_description: proc { |handle| call(:export_description, handle).to_s },
    block_size: proc { |handle| call(:block_size, handle).pack('Q>3') },
    pread: proc { |handle, _, flags, count, offset| read_data(handle, flags, count, offset) },
    extents: proc { |handle, _, flags, count, offset|
      with_flags(:extents, flags, handle, count, offset).map { |one| one.pack('Q>Q>N') }.join
    }
  }.freeze
  NOTHING = {
    config: proc { |_, data| call(:config, *data.split("\0", 2)) },
    preconnect: proc { |_, _, flags| call(:preconnect, flags & READ_ONLY != 0) },
    open: proc { |_, name, flags, _, _, number| open_handle(number, name, flags & READ_ONLY != 0) },
    close: proc { |handle, _, _, _, _, number| close_handle(number, handle) },
    pwrite: proc { |h, data, flags, _, offset| with_flags(:pwrite, flags, h, data, offset) },
    flush: proc { |h, _, flags| with_flags(:flush, flags, h) },
    trim: proc { |h, _, flags, count, offset| with_flags(:trim, flags, h, count, offset) },
    zero: proc { |h, _, flags, count, offset| zero_range(h, flags, count, offset) },
    cache: proc { |h, _, flags, count, offset| with_flags(:cache, flags, h, count, offset) },
    **PLAIN.to_h { |name| [name, proc { call_if_there(name) }] }
  }.freeze

  # The operations; the first has the number 1, see frames.py.
  NAMES = %i[load dump_plugin config config_complete thread_model get_ready unload start wait
             after_fork cleanup preconnect list_exports default_export open close get_size
             export_description block_size is_rotational can_multi_conn can_write can_flush can_trim
             can_zero can_fast_zero can_fua can_cache can_extents pread pwrite flush trim zero cache
             extents].freeze
  LOAD, START, WAIT = %i[load start wait].map { |name| NAMES.index(name) + 1 }

  # -- requests -----------------------------------------------------------------------------

  NOTICE, DEBUG, SHUTDOWN = 0xFFFFFFFF, 0, 1
  Closed = Class.new(StandardError)

  class << self
    def debug(text)
      reply(@socket, DEBUG, text.to_s, NOTICE) if @verbose
    end

    def shutdown
      reply(@socket, SHUTDOWN, '', NOTICE)
    end

    def receive(socket, count)
      data = socket.read(count)
      raise Closed if data.nil? || data.bytesize < count

      data
    rescue Errno::ECONNRESET
      raise Closed
    end

    # operation, handle, flags, count, offset, payload
    def read_request(socket)
      length, *fields = receive(socket, 32).unpack('N4Q>2')
      fields << (length.zero? ? +'' : receive(socket, length))
    end

    def reply(socket, value = 0, payload = '', error = 0)
      socket.write([payload.bytesize, error, value].pack('NNq>'), payload)
    rescue Errno::EPIPE, Errno::ECONNRESET
      raise Closed
    end

    def answer(socket)
      operation, number, flags, count, offset, data = read_request(socket)
      @socket = socket
      @errno = 0
      handle, @export_name = @handles[number]
      value, payload = perform(NAMES[operation - 1], handle, data, flags, count, offset, number)
    rescue Closed
      raise
    rescue Exception => error # even an exit only ends the callback
      leave_child(error)
      reply(socket, 0, describe(error), errno_of(error))
    else
      leave_child
      reply(socket, value, payload)
    end

    def perform(name, *request)
      if (action = PAYLOAD[name])
        [0, action.call(*request)]
      elsif (action = VALUE[name])
        [action.call(*request), '']
      else
        NOTHING.fetch(name).call(*request)
        [0, '']
      end
    end

    # A child process that the script forked must not go on as a server: it ends here.
    def leave_child(error = nil)
      return if Process.pid == @process

      error ? Kernel.raise(error) : Kernel.exit
    end

    def errno_of(error)
      return @errno unless @errno.zero?

      error.is_a?(SystemCallError) && error.errno || Errno::EIO::Errno
    end

    # Returns "SCRIPT:LINE: TEXT".  Of a NameError, only the first line is the text.
    def describe(error)
      return "the script called exit(#{error.status})" if error.is_a?(SystemExit)

      text = error.message.b
      text = text.lines.first.to_s.chomp if error.is_a?(NameError)
      text = error.class.name.b if text.empty?
      line = error.backtrace&.find { |place| place.start_with?("#{@script}:") }
      line ? "#{@script.b}:#{line.delete_prefix("#{@script}:").to_i}: #{text}" : text
    end
  end

  # -- the template -------------------------------------------------------------------------

  NO_STDIO, LOG_STDERR = 1, 2
  @forks = {} # by pid: the thread that waits for the fork

  class << self
    def run
      listener = UNIXServer.for_fd(ENV['NBDFORK_SOCKET'].to_i)
      @log = IO.for_fd(ENV['NBDFORK_LOG'].to_i, 'w')
      STDOUT.sync = true
      serve_workers(listener, listener.accept)
    rescue Closed
      leave(in_fork: false)
    end

    def serve_workers(listener, control)
      loop do
        ready, = IO.select([control, listener])
        next answer(control) if ready.include?(control)

        worker = listener.accept
        serve_worker(worker, listener, control)
        worker.close
      end
    end

    def serve_worker(worker, listener, control)
      operation, _, flags, _, offset, data = read_request(worker)
      case operation
      when START then start(worker, flags, data) { [listener, control, @log].each(&:close) }
      when WAIT then reply(worker, @forks.delete(offset).value.to_i)
      end
    rescue Closed
      nil # the worker died
    end

    def start(worker, flags, data)
      become(flags, *data.split("\0", 4))
    rescue SystemCallError => error
      reply(worker, 0, describe(error), errno_of(error))
    else
      @has_forked = true
      pid = Process.fork
      return @forks[pid] = Process.detach(pid) if pid

      yield
      serve_clients(worker)
    end

    def become(flags, directory, uid, gid, groups)
      Dir.chdir(directory)
      # These go to all processes of a terminal or service; what ends a fork is its connection.
      %w[INT TERM HUP QUIT].each { |signal| Signal.trap(signal, 'IGNORE') }
      if flags & NO_STDIO != 0
        STDIN.reopen(File::NULL)
        STDOUT.reopen(File::NULL, 'w')
      end
      STDERR.reopen(@log) if flags & LOG_STDERR != 0
      return if [uid.to_i, gid.to_i] == [Process.euid, Process.egid]

      Process.groups = groups.to_s.split.map(&:to_i)
      Process::Sys.setgid(gid.to_i)
      Process::Sys.setuid(uid.to_i)
    end

    def serve_clients(worker)
      @process = Process.pid
      Process.setpgrp # it may be killed with all that the script has started
      worker.nonblock = false # otherwise each wait would take two more system calls
      Random.srand
      reply(worker, @process)
      Kernel.loop { answer(worker) }
    rescue Closed
      leave(in_fork: true)
    end

    # at_exit handlers run once only, in the process that has the script's state.
    def leave(in_fork:)
      Kernel.exit if in_fork == @one_process || !@has_forked
      Process.exit!(0)
    end
  end
end

NbdforkHost.run
