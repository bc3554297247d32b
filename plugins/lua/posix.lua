-- What a Lua built without POSIX lacks, as lupa's is: io.popen, and the exit status of a command.

local start, let_go, wait, forget = ...
local error, setmetatable = error, setmetatable
local open, output, execute = io.open, io.output, os.execute
local methods = getmetatable(io.stdout).__index
local close = methods.close
local children = setmetatable({}, {__mode = "k"})   -- by file: the process at the other end
local of_a_lost_file = {__gc = function(child) forget(child.pid) end}

-- Return Lua's description of a status from waitpid(2).
local function ending(status)
    local signal = status & 127
    if signal ~= 0 then return nil, "signal", signal end
    return status == 0 or nil, "exit", status >> 8
end

function os.execute(command)
    if not command then return execute() end
    local is_done, how, status = execute(command)
    if how ~= "exit" then return is_done, how, status end
    return ending(status)
end

function io.popen(command, mode)
    mode = mode or "r"
    if mode ~= "r" and mode ~= "w" then
        error("bad argument #2 to 'popen' (invalid mode)", 2)
    end
    local pid, place = start(command, mode)
    local file, reason, code = open(place, mode)
    let_go(pid)
    if not file then return nil, reason, code end
    children[file] = setmetatable({pid = pid}, of_a_lost_file)
    return file
end

function methods.close(file)
    local child = children[file]
    if not child then return close(file) end
    setmetatable(child, nil)
    children[file] = nil
    close(file)
    return ending(wait(child.pid))
end

function io.close(file) return (file or output()):close() end
