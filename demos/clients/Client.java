// Calls a model with Java's own HTTP client.
// usage: java Client.java BASE_URL MODEL COUNT CA_FILE
// Prints {"ready": ...}, begins when a line arrives on standard input, and stays until standard input is closed.

import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

class Client {
    public static void main(String[] arguments) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (FileInputStream file = new FileInputStream(arguments[3])) {
            store.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        TrustManagerFactory trusted = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trusted.init(store);
        SSLContext tls = SSLContext.getInstance("TLS");
        tls.init(null, trusted.getTrustManagers(), null);
        HttpClient client = HttpClient.newBuilder().sslContext(tls).version(HttpClient.Version.HTTP_1_1).build();
        String body = "{\"model\": \"" + arguments[1] + "\", \"stream\": true, \"messages\": "
            + "[{\"role\": \"user\", \"content\": \"Say something about bees.\"}]}";
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        System.out.println("{\"ready\": " + ProcessHandle.current().pid() + "}");
        if (input.readLine() == null) {
            return;
        }
        int answers = 0;
        for (int i = 0; i < Integer.parseInt(arguments[2]); i++) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0] + "/v1/chat/completions"))
                .header("content-type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(body))
                .build();
            if (client.send(request, HttpResponse.BodyHandlers.ofString()).statusCode() == 200) {
                answers++;
            }
        }
        System.out.println("{\"answers\": " + answers + "}");
        while (input.readLine() != null) {
        }
    }
}
