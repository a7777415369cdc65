"""Calls a model through libcurl over another TLS library than curl's own, one answer after the other on one connection.

Debian has libcurl over GnuTLS (libcurl3-gnutls) and over NSS (libcurl3-nss). Prints {"answers": ...}, how many came through.
"""

import argparse
import ctypes
import json

# curl.h
CURLOPT_URL, CURLOPT_COPYPOSTFIELDS, CURLOPT_HTTPHEADER, CURLOPT_WRITEFUNCTION = 10002, 10165, 10023, 20011
CURLOPT_SSL_VERIFYPEER, CURLOPT_SSL_VERIFYHOST, CURLOPT_HTTP_VERSION = 64, 81, 84
CURLINFO_RESPONSE_CODE, CURLINFO_HTTP_VERSION = 0x200002, 0x20002E
VERSIONS = {"h1": 2, "h2": 4}
SPOKEN = {"h1": 2, "h2": 3}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", choices=("gnutls", "nss"))
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("count", type=int)
    parser.add_argument("version", choices=tuple(VERSIONS))
    return parser.parse_args()


def main():
    options = arguments()
    curl = ctypes.CDLL(f"libcurl-{options.library}.so.4")
    curl.curl_version.restype = ctypes.c_char_p
    assert f" {options.library}/" in curl.curl_version().decode().lower(), curl.curl_version()
    for name in ("curl_easy_init", "curl_slist_append"):
        getattr(curl, name).restype = ctypes.c_void_p
    handle = ctypes.c_void_p(curl.curl_easy_init())

    @ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p)
    def discard(_data, size, items, _user):
        return size * items

    headers = ctypes.c_void_p(curl.curl_slist_append(None, b"Content-Type: application/json"))
    body = {"model": options.model, "messages": [], "stream": True, "stream_options": {"include_usage": True}}
    for option, value in (
        (CURLOPT_URL, ctypes.c_char_p(options.url.encode())),
        (CURLOPT_COPYPOSTFIELDS, ctypes.c_char_p(json.dumps(body).encode())),
        (CURLOPT_HTTPHEADER, headers),
        (CURLOPT_WRITEFUNCTION, discard),
        (CURLOPT_HTTP_VERSION, ctypes.c_long(VERSIONS[options.version])),
        # NSS has certificates in a database of its own.
        (CURLOPT_SSL_VERIFYPEER, ctypes.c_long(0)),
        (CURLOPT_SSL_VERIFYHOST, ctypes.c_long(0)),
    ):
        assert curl.curl_easy_setopt(handle, option, value) == 0, option

    def told(what):
        value = ctypes.c_long()
        curl.curl_easy_getinfo(handle, what, ctypes.byref(value))
        return value.value

    answers = 0
    for _ in range(options.count):
        result = curl.curl_easy_perform(handle)
        answers += result == 0 and told(CURLINFO_RESPONSE_CODE) == 200
        assert told(CURLINFO_HTTP_VERSION) == SPOKEN[options.version], told(CURLINFO_HTTP_VERSION)
    print(json.dumps({"answers": answers}), flush=True)


if __name__ == "__main__":
    main()
