-- Reads the model of a request's body into headers. The route is then selected again, with these headers.
--
-- The headers must name the model that the server will read from the same bytes. A scan of bytes finds it in any valid
-- JSON object: strings are skipped by their quotes, and brackets outside strings are counted. Of a repeated key the last
-- one counts, as in the servers' parsers. A body that is not a JSON object has no model. Servers reject it.

local byte, char, concat, find, match, sub = string.byte, string.char, table.concat, string.find, string.match, string.sub
local floor, lower = math.floor, string.lower

-- Bytes of a name in JSON: 256 characters, each a pair of escaped surrogates.
local MAX_ESCAPED_BYTES = 3072
-- Bytes of a name: 256 characters, each of 4 bytes.
local MAX_NAME_BYTES = 1024
-- Bytes of the headers of a form's part, as in the picker (multipart_forms.py).
local MAX_PART_HEAD_BYTES = 16384
-- Bytes of a body whose copy is freed at once. A collection costs little beside the copy of so many bytes. Judgement.
local LARGE_BYTES = 1048576

local BACKSLASH, QUOTE, COLON = 92, 34, 58
local BRACE, BRACKET, END_BRACE, END_BRACKET = 123, 91, 125, 93

-- The position of the quote that closes the string opened at `first`. Each backslash is read once.
local function string_end(text, first)
  local last = first
  while true do
    last = find(text, '"', last + 1, true)
    if not last then
      return nil
    end
    local before = last - 1
    while byte(text, before) == BACKSLASH do
      before = before - 1
    end
    if (last - before) % 2 == 1 then
      return last
    end
  end
end

-- The position of the next byte that is not white space, and that byte.
local function after_space(text, at)
  local code = byte(text, at)
  while code == 32 or code == 10 or code == 13 or code == 9 do
    at = at + 1
    code = byte(text, at)
  end
  return at, code
end

local function utf8(code)
  if code < 0x80 then
    return char(code)
  elseif code < 0x800 then
    return char(0xC0 + floor(code / 0x40), 0x80 + code % 0x40)
  elseif code < 0x10000 then
    return char(0xE0 + floor(code / 0x1000), 0x80 + floor(code / 0x40) % 0x40, 0x80 + code % 0x40)
  end
  return char(
    0xF0 + floor(code / 0x40000), 0x80 + floor(code / 0x1000) % 0x40, 0x80 + floor(code / 0x40) % 0x40,
    0x80 + code % 0x40
  )
end

-- The code point of the escape `\uXXXX` at `at`, or of a pair of surrogates, and the position after it.
local function escaped_code(text, at)
  local code = tonumber(match(text, "^\\u(%x%x%x%x)", at) or "", 16)
  if not code or (code >= 0xDC00 and code < 0xE000) then
    return nil
  elseif code < 0xD800 or code >= 0xE000 then
    return code, at + 6
  end
  local second = tonumber(match(text, "^\\u(%x%x%x%x)", at + 6) or "", 16)
  if not second or second < 0xDC00 or second >= 0xE000 then
    return nil
  end
  return 0x10000 + (code - 0xD800) * 0x400 + second - 0xDC00, at + 12
end

-- The text of a JSON string without its quotes. nil for escapes that no name of a model has.
local function unescaped(raw)
  local at = find(raw, "\\", 1, true)
  if not at then
    return raw
  end
  if #raw > MAX_ESCAPED_BYTES then
    return nil
  end
  local parts, from = {}, 1
  while at do
    parts[#parts + 1] = sub(raw, from, at - 1)
    local escape = sub(raw, at + 1, at + 1)
    if escape == "u" then
      local code
      code, from = escaped_code(raw, at)
      if not code then
        return nil
      end
      parts[#parts + 1] = utf8(code)
    elseif escape == "/" or escape == "\\" or escape == '"' then
      parts[#parts + 1] = escape
      from = at + 2
    else
      return nil
    end
    at = find(raw, "\\", from, true)
  end
  parts[#parts + 1] = sub(raw, from)
  return concat(parts)
end

-- The value of the key `model` in the object that is the whole of `text`.
local function json_model(text)
  local at, code = after_space(text, 1)
  if code ~= BRACE then
    return nil
  end
  local depth, length, model = 1, #text, nil
  at = at + 1
  while at <= length do
    code = byte(text, at)
    if code == QUOTE then
      local last = string_end(text, at)
      if not last then
        return nil
      end
      if depth == 1 then
        local colon, after = after_space(text, last + 1)
        if after == COLON then
          local key = sub(text, at + 1, last - 1)
          if find(key, "\\", 1, true) then
            -- It might be `model`, for a server.
            return nil
          end
          last = colon
          if key == "model" then
            local first, quote = after_space(text, colon + 1)
            model = nil
            if quote == QUOTE then
              last = string_end(text, first)
              if not last then
                return nil
              end
              model = sub(text, first + 1, last - 1)
            end
          end
        end
      end
      at = last
    elseif code == BRACE or code == BRACKET then
      depth = depth + 1
    elseif code == END_BRACE or code == END_BRACKET then
      depth = depth - 1
    end
    at = at + 1
  end
  return depth == 0 and model and unescaped(model) or nil
end

-- The value of the field `model` of a multipart form (RFC 7578).
local function form_model(text, content_type)
  local boundary = match(content_type, '[Bb]oundary="([^"]+)"') or match(content_type, "[Bb]oundary=([^%s;]+)")
  if not boundary or #boundary > 70 then
    return nil
  end
  local delimiter = "\r\n--" .. boundary
  local first, last = find(text, "--" .. boundary, 1, true)
  local model
  while first do
    local head_end = find(text, "\r\n\r\n", last + 1, true)
    if not head_end or head_end - last > MAX_PART_HEAD_BYTES then
      -- The form ends after its last boundary.
      return model
    end
    local head = sub(text, last + 1, head_end - 1)
    first, last = find(text, delimiter, head_end, true)
    if first and not find(lower(head), "filename", 1, true) then
      local name = match(head, '[;%s][Nn][Aa][Mm][Ee]="?([^";\r]*)')
      if name == "model" then
        model = sub(text, head_end + 4, first - 1)
      end
    end
  end
  return nil
end

-- By default Lua collects garbage once its memory is twice what lives, which is little here: the libraries and Envoy's
-- types. Four times that makes a third as many collections. Large bodies are freed at once.
collectgarbage("setpause", 400)

-- The model in a body, or nil.
local function body_model(body, content_type)
  local text = body:getBytes(0, body:length())
  -- Almost all requests have this exact type.
  if content_type ~= "application/json" and find(lower(content_type), "multipart/", 1, true) then
    return form_model(text, content_type)
  end
  return json_model(text)
end

function envoy_on_request(handle)
  local body = handle:body()
  -- After the body: Envoy's objects do not outlive the wait for it, and each one costs.
  local headers = handle:headers()
  local model = body and body_model(body, headers:get("content-type") or "")
  -- Control characters would end the header.
  if model and model ~= "" and #model <= MAX_NAME_BYTES and not find(model, "%c") then
    headers:replace("x-gateway-model-name", model)
    headers:replace("x-gateway-base-model-name", handle:filterContext():get(model) or model)
  else
    headers:replace("x-gateway-model-missing", "true")
  end
  handle:clearRouteCache()
  if body and body:length() > LARGE_BYTES then
    collectgarbage()
  end
end
