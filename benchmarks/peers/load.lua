-- Sends the bodies of a folder in turn, over connections that stay open, and tells what became of them as one line.
-- Arguments: the folder, which holds `headers` and the bodies 0 to COUNT - 1; and COUNT.
local requests, turn = {}, 0

local function read(path)
   local file = assert(io.open(path, "rb"))
   local text = file:read("*a")
   file:close()
   return text
end

function init(args)
   local folder, count = args[1], tonumber(args[2])
   local headers = {}
   for name, value in read(folder .. "/headers"):gmatch("([^:\n]+): ([^\n]*)\n") do headers[name] = value end
   for number = 0, count - 1 do
      requests[number] = wrk.format("POST", nil, headers, read(folder .. "/" .. number))
   end
end

function request()
   local text = requests[turn]
   turn = (turn + 1) % (#requests + 1)
   return text
end

function done(summary, latency)
   local e = summary.errors
   io.write(string.format(
      "RESULT %d %d %d %d %d %d %d %d\n",
      summary.requests, summary.duration, summary.bytes, e.connect, e.read, e.write, e.status, e.timeout))
   io.write("LATENCY")
   for index = 1, #latency do
      local value, count = latency(index)
      io.write(string.format(" %d:%d", value, count))
   end
   io.write("\n")
end
