-- A RAM disk with all callbacks that nbdkit's lua plugin knows, each able to fail.
local size = 65536
local SECTOR = 512
local sectors = {}                 -- by number; what is nil has only zeroes
local fail = {}

function config(key, value)
    if key == "fail" then fail[value] = true
    elseif key == "size" then size = math.tointeger(tonumber(value))
    else error("unknown parameter " .. key) end
end

local function maybe_fail(name)
    if fail[name] then error("no room for " .. name) end
end

function config_complete() maybe_fail("config_complete") end

function open(readonly)
    maybe_fail("open")
    assert(type(readonly) == "boolean")
    return {readonly = readonly}
end

function close(h) h.closed = true end

function get_size(h) return size end

function can_write(h) return true end

function can_flush(h) return true end

function can_trim(h) return true end

function is_rotational(h) return true end

local function get(count, offset)
    local first, last = offset // SECTOR, (offset + count - 1) // SECTOR
    local parts = {}
    for i = first, last do parts[#parts + 1] = sectors[i] or ("\0"):rep(SECTOR) end
    local skipped = offset - first * SECTOR
    return table.concat(parts):sub(skipped + 1, skipped + count)
end

local function put(data, offset)
    local first, last = offset // SECTOR, (offset + #data - 1) // SECTOR
    local before = get(offset - first * SECTOR, first * SECTOR)
    local after = get((last + 1) * SECTOR - offset - #data, offset + #data)
    local all = before .. data .. after
    for i = first, last do
        sectors[i] = all:sub((i - first) * SECTOR + 1, (i - first + 1) * SECTOR)
    end
end

function pread(h, count, offset)
    maybe_fail("pread")
    return get(count, offset) .. (fail.long and "more" or "")
end

function pwrite(h, buf, offset)
    maybe_fail("pwrite")
    if fail.kill then os.execute("kill -9 $PPID") end
    put(buf, offset)
end

function flush(h) maybe_fail("flush") end

function trim(h, count, offset)
    maybe_fail("trim")
    put(("\0"):rep(count), offset)
end

function zero(h, count, offset, may_trim)
    maybe_fail("zero")
    assert(type(may_trim) == "boolean")
    put(("\0"):rep(count), offset)
end
