// Calls a model with Go's own HTTP client.
// usage: client BASE_URL MODEL COUNT CA_FILE h1|h2
// Prints {"ready": ...}, begins when a line arrives on standard input, and stays until standard input is closed.
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"io/ioutil"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
)

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func call(client *http.Client, url, model string) int {
	body, err := json.Marshal(map[string]interface{}{
		"model": model, "stream": true, "stream_options": map[string]bool{"include_usage": true},
		"messages": []map[string]string{{"role": "user", "content": "Say something about bees."}},
	})
	fail(err)
	request, err := http.NewRequest("POST", url+"/v1/chat/completions", strings.NewReader(string(body)))
	fail(err)
	request.Header.Set("content-type", "application/json")
	request.Header.Set("authorization", "Bearer demo-key")
	answer, err := client.Do(request)
	fail(err)
	defer answer.Body.Close()
	_, err = io.Copy(ioutil.Discard, answer.Body)
	fail(err)
	return answer.StatusCode
}

func main() {
	url, model, protocol := os.Args[1], os.Args[2], os.Args[5]
	count, err := strconv.Atoi(os.Args[3])
	fail(err)
	authority, err := ioutil.ReadFile(os.Args[4])
	fail(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: protocol == "h2"}
	client := &http.Client{Transport: transport}
	input := bufio.NewScanner(os.Stdin)
	fmt.Printf("{\"ready\": %d}\n", os.Getpid())
	if !input.Scan() {
		return
	}
	var answers int
	var lock sync.Mutex
	var all sync.WaitGroup
	for i := 0; i < count; i++ {
		one := func() {
			defer all.Done()
			if call(client, url, model) == 200 {
				lock.Lock()
				answers++
				lock.Unlock()
			}
		}
		all.Add(1)
		// Over HTTP/2 side by side, on one connection, but for the first, which opens it.
		if protocol == "h2" && i > 0 {
			go one()
		} else {
			one()
		}
	}
	all.Wait()
	fmt.Printf("{\"answers\": %d}\n", answers)
	for input.Scan() {
	}
}
