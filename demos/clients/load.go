// Calls a model over many HTTP/2 connections at once, with several requests on each side by side.
// usage: load BASE_URL MODEL CONNECTIONS STREAMS THREADS CA_FILE
// Prints {"ready": ...}, begins when a line arrives on standard input, and stays until standard input is closed.
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func number(text string) int {
	value, err := strconv.Atoi(text)
	fail(err)
	return value
}

func call(client *http.Client, url, body string) bool {
	answer, err := client.Post(url+"/v1/chat/completions", "application/json", strings.NewReader(body))
	fail(err)
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	fail(err)
	return answer.StatusCode == 200
}

func main() {
	url, model := os.Args[1], os.Args[2]
	connections, streams, threads := number(os.Args[3]), number(os.Args[4]), number(os.Args[5])
	runtime.GOMAXPROCS(threads)
	authority, err := os.ReadFile(os.Args[6])
	fail(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	body := `{"model": "` + model + `", "stream": true, "stream_options": {"include_usage": true}, "messages": []}`
	input := bufio.NewScanner(os.Stdin)
	fmt.Printf("{\"ready\": %d}\n", os.Getpid())
	if !input.Scan() {
		return
	}
	var answers atomic.Int64
	clients := make([]*http.Client, connections)
	run := func(calls int, each func(*http.Client)) {
		work := make(chan *http.Client)
		var all sync.WaitGroup
		// At a pace at which an observer keeps up that is not optimised, beside its load on two cores.
		for i := 0; i < threads; i++ {
			all.Add(1)
			go func() {
				defer all.Done()
				for client := range work {
					each(client)
					time.Sleep(100 * time.Millisecond)
				}
			}()
		}
		for i := 0; i < calls; i++ {
			for _, client := range clients {
				work <- client
			}
		}
		close(work)
		all.Wait()
	}
	for i := range clients {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
		clients[i] = &http.Client{Transport: transport}
	}
	one := func(client *http.Client) {
		if call(client, url, body) {
			answers.Add(1)
		}
	}
	// The first request of each opens its connection, which those that follow share.
	run(1, one)
	run(1, func(client *http.Client) {
		var all sync.WaitGroup
		for i := 1; i < streams; i++ {
			all.Add(1)
			go func() {
				defer all.Done()
				one(client)
			}()
		}
		all.Wait()
	})
	fmt.Printf("{\"answers\": %d}\n", answers.Load())
	for input.Scan() {
	}
}
