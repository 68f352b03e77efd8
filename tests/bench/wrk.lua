-- What wrk asks for, and what it prints at the end. Arguments: plain | headers | ranges SIZE LENGTH

local kind, size, length
local sent = 0

-- A request with fields of a browser, none of which is like that of the request before.
local function with_other_headers()
  sent = sent + 1
  return "GET " .. wrk.path .. " HTTP/1.1\r\nHost: bench\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:"
    .. sent .. ".0) Gecko/20100101\r\nAccept: video/webm,video/ogg,video/*;q=0.9,*/*;q=0.5\r\n"
    .. "Accept-Language: en-US,en;q=0.5\r\nX-Request-Id: " .. sent .. "\r\nConnection: keep-alive\r\n\r\n"
end

local function with_random_range()
  local first = math.random(0, size - length)
  return "GET " .. wrk.path .. " HTTP/1.1\r\nHost: bench\r\nRange: bytes=" .. first .. "-"
    .. (first + length - 1) .. "\r\n\r\n"
end

function init(args)
  kind, size, length = args[1], tonumber(args[2]), tonumber(args[3])
  math.randomseed(1)
  -- Without a function of ours wrk sends the same bytes again and again, which costs it least.
  if kind == "headers" then request = with_other_headers end
  if kind == "ranges" then request = with_random_range end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "bytes": %d, "us": %d, "errors": %d, "p50": %d, "p99": %d, "max": %d}\n',
    summary.requests, summary.bytes, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99), latency.max))
end
