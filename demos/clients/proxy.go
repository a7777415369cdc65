// Speaks TLS to clients and plain HTTP to the server behind it.
// usage: proxy UPSTREAM_URL CERTIFICATE KEY
// Prints {"port": ...} and ends when standard input is closed.
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
)

func fail(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	upstream, err := url.Parse(os.Args[1])
	fail(err)
	pair, err := tls.LoadX509KeyPair(os.Args[2], os.Args[3])
	fail(err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	fail(err)
	proxy := httputil.NewSingleHostReverseProxy(upstream)
	proxy.FlushInterval = -1
	config := &tls.Config{Certificates: []tls.Certificate{pair}}
	server := &http.Server{Handler: proxy, TLSConfig: config, ErrorLog: log.New(io.Discard, "", 0)}
	go func() { fail(server.ServeTLS(listener, "", "")) }()
	fmt.Printf("{\"port\": %d}\n", listener.Addr().(*net.TCPAddr).Port)
	_, _ = io.Copy(io.Discard, os.Stdin)
}
